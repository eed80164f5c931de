"""Received: what a caller says that it has received of one index, checked.

Nothing here is known to be true: a caller may have made it up. What no stream could have had is
refused before any work in proportion to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from folovllm.errors import InvalidRequestError, errors_within
from folovllm.v1 import types_pb2
from tokenizer_service.handlers.resuming.ending import Ending, EndingRules


@dataclass(frozen=True, slots=True)
class Received:
    """The output so far of one index whose last message was not received."""

    place: str
    """Where the caller has said it, such as `resume.outputs[1]`."""
    index: int
    token_ids: Sequence[int]
    logprobs: Sequence[float]
    num_later_messages: int
    ending: Ending | None
    """How it ends with these ids, as far as they alone tell."""

    def fault(self, field: str, reason: str) -> InvalidRequestError:
        """The error about one of its fields."""
        return InvalidRequestError(f"{self.place}.{field}", reason)


def check_outputs(resume: types_pb2.Resume, n: int) -> None:
    """Checks what takes no time, and does not depend on the prompt. Raises InvalidRequestError."""
    seen: set[int] = set()
    for number, output in enumerate(resume.outputs):
        field = f"resume.outputs[{number}].index"
        if output.index >= n:
            raise InvalidRequestError(field, f"must be below n ({n}), got {output.index}")
        if output.index in seen:
            raise InvalidRequestError(field, f"{output.index} is listed twice")
        seen.add(output.index)


def read_received(resume: types_pb2.Resume, rules: EndingRules, vocab_size: int) -> list[Received]:
    """Reads all of them. Raises InvalidRequestError for what the request cannot have returned."""
    received = []
    for number, output in enumerate(resume.outputs):
        place = f"resume.outputs[{number}]"
        with errors_within(place):
            _check_lengths(output, rules)
            token_ids, logprobs = list(output.token_ids), list(output.logprobs)
            _check_token_ids(token_ids, rules, vocab_size)
            if not all(map(isfinite, logprobs)):
                raise InvalidRequestError("logprobs", "must be finite numbers")
        received.append(
            Received(
                place,
                output.index,
                token_ids,
                logprobs,
                output.num_later_messages,
                rules.ending_of(token_ids),
            )
        )
    return received


def _check_lengths(output: types_pb2.ResumedOutput, rules: EndingRules) -> None:
    num_ids, params = len(output.token_ids), rules.params
    if num_ids > rules.max_tokens:
        raise InvalidRequestError(
            "token_ids", f"{num_ids} ids are over the {rules.max_tokens} that may be generated"
        )
    if not num_ids and output.num_later_messages:
        raise InvalidRequestError("num_later_messages", "must be 0 where there are no token_ids")
    num_wanted = 0 if params.logprobs is None else num_ids
    if len(output.logprobs) != num_wanted:
        reason = "they are not asked for" if params.logprobs is None else "one for each id"
        raise InvalidRequestError(
            "logprobs", f"must have {num_wanted} entries ({reason}), got {len(output.logprobs)}"
        )


def _check_token_ids(token_ids: list[int], rules: EndingRules, vocab_size: int) -> None:
    if max(token_ids, default=0) >= vocab_size:
        position = next(i for i, token_id in enumerate(token_ids) if token_id >= vocab_size)
        raise InvalidRequestError(
            f"token_ids[{position}]",
            f"id {token_ids[position]} is not below the model's vocabulary size, {vocab_size}",
        )
    end = rules.first_end(token_ids)
    if end is not None:
        raise InvalidRequestError(
            f"token_ids[{end + 1}]", f"follows id {token_ids[end]}, which ends the output"
        )
