"""Requests that are cut off and go on elsewhere, as what has come of them says."""

from collections.abc import Sequence
from dataclasses import replace

from engine_service.core.continued import Continued, ContinuedOutput
from engine_service.core.request import Request
from folovllm.outputs import CompletionOutput, RequestOutput


def cut(
    request: Request, whole: RequestOutput, cuts: Sequence[int], branch_index: int = 0
) -> tuple[Request | None, RequestOutput]:
    """The request that goes on where `whole`, all that comes of it, is cut; and what came before.

    Each output is cut before its token of the number in `cuts`, modulo one more than it has; where
    that is past its last token it has ended. There is no request if all have. To what came before
    the deltas of the request can be added with `add`; all together should equal `whole`.
    """
    received = RequestOutput(request.request_id)
    given = []
    for output, number in zip(whole.outputs, cuts, strict=False):
        count = number % (len(output.token_ids) + 1)
        if count == len(output.token_ids):
            received.outputs.append(output)
            continue
        received.outputs.append(_beginning(output, count))
        logprobs = [position.token.logprob or 0.0 for position in output.logprobs[:count]]
        given.append(
            ContinuedOutput(output.index, tuple(output.token_ids[:count]), logprobs=logprobs)
        )
    if not given or given[0].index > 0 or given[0].token_ids:
        received.info = whole.info  # it came with the first token of index 0
    # They are found by their index, not by their place.
    continued = Continued(given[::-1], branch_index=branch_index)
    return replace(request, continued=continued) if given else None, received


def add(received: RequestOutput, delta: CompletionOutput) -> None:
    """Adds what follows; of what is known of the request, the first counts."""
    if received.info is not None:
        delta.info = None
    received.add(delta)


def _beginning(output: CompletionOutput, count: int) -> CompletionOutput:
    return CompletionOutput(
        request_id=output.request_id,
        index=output.index,
        token_ids=output.token_ids[:count],
        logprobs=output.logprobs[:count],
    )
