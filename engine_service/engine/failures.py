"""Requests that fail by themselves, and how an engine finds out that the fault is not theirs."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from folovllm.errors import FolovError, RequestFailedError, ServerError
from folovllm.outputs import CompletionOutput
from folovllm.request_id import new_request_id

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RequestFailure:
    """What ended a request, or whatever else has outputs of this name."""

    name: str
    error: FolovError


def request_failure(name: str, error: Exception) -> RequestFailure:
    """The failure of a request, of any kind; one that is a bug is logged."""
    if isinstance(error, RequestFailedError):
        error.request_id = name
    elif not isinstance(error, FolovError):
        log.error("a request has failed", exc_info=error)
        message = "an internal error of this request ended it; the server's log says more"
        error = RequestFailedError(message, name)
    return RequestFailure(name, error)


class FailureJudge:
    """Tells requests that fail by themselves from an engine on which everything fails.

    If all of a step fails, the engine computes a probe: the token that it has warmed up with. What
    failed in the meantime is held back until that is done. If the probe fails too, the model or its
    device is broken, and no request is to blame.
    """

    def __init__(self, start_probe: Callable[[str], None]) -> None:
        """`start_probe` adds the request of that name, ahead of all others."""
        self._start_probe = start_probe
        self._probe: str | None = None
        self._held: list[RequestFailure] = []
        self._failures: list[RequestFailure] = []

    def __len__(self) -> int:
        """Failures that can be drained."""
        return len(self._failures)

    def drain(self) -> list[RequestFailure]:
        """The requests that have failed by themselves since the last call."""
        failures, self._failures = self._failures, []
        return failures

    def judge(
        self,
        outputs: list[CompletionOutput],
        failures: Sequence[RequestFailure],
        everything_failed: bool,
    ) -> list[CompletionOutput]:
        """Takes what a step led to; returns the outputs that are not the probe's.

        Raises ServerError if the probe has failed.
        """
        if self._probe is None and not failures:
            return outputs
        for failure in failures:
            if failure.name == self._probe:
                raise ServerError(
                    f"no request can be computed any more, whatever it is: {failure.error}"
                )
        if any(output.request_id == self._probe for output in outputs):
            outputs = [output for output in outputs if output.request_id != self._probe]
            self._probe = None
        self._held += failures
        if self._probe is None and everything_failed:
            self._probe = f"probe-{new_request_id()}"
            self._start_probe(self._probe)
        if self._probe is None:
            self._failures += self._held
            self._held = []
        return outputs
