"""An output of the engine as messages: one, or several where its RequestInfo is long.

Each of them takes a few milliseconds to make, and with all of them a client's default limit of
4 MiB is far away. The lists of a long RequestInfo come first, before any token.
"""

from collections.abc import Iterator
from dataclasses import replace

from folovllm.outputs import CompletionOutput, RequestInfo
from folovllm.serving.turns import MAX_ENTRIES, MAX_IDS
from folovllm.v1 import types_pb2


def output_messages(output: CompletionOutput) -> Iterator[types_pb2.CompletionOutput]:
    """The messages of an output, which joined are the whole of it."""
    info = output.info
    if info is not None and _is_long(info):
        for part in _parts(info):
            yield types_pb2.CompletionOutput(
                request_id=output.request_id, index=output.index, info=part
            )
        output = replace(output, info=None)
    yield output.to_proto()


def _is_long(info: RequestInfo) -> bool:
    num_positions = len(info.prompt_logprobs)
    return (num_positions > 0 and num_positions > _positions_a_part(info)) or len(
        info.parent_output_token_ids
    ) > MAX_IDS


def _positions_a_part(info: RequestInfo) -> int:
    # The last one tells how many candidates were asked for; the first has none.
    return max(1, MAX_ENTRIES // (1 + len(info.prompt_logprobs[-1].top)))


def _parts(info: RequestInfo) -> Iterator[types_pb2.RequestInfo]:
    """What is said once, then the lists piece by piece."""
    yield replace(info, prompt_logprobs=(), parent_output_token_ids=()).to_proto()
    if info.prompt_logprobs:
        step = _positions_a_part(info)
        for start in range(0, len(info.prompt_logprobs), step):
            positions = info.prompt_logprobs[start : start + step]
            yield types_pb2.RequestInfo(prompt_logprobs=[each.to_proto() for each in positions])
    for start in range(0, len(info.parent_output_token_ids), MAX_IDS):
        ids = info.parent_output_token_ids[start : start + MAX_IDS]
        yield types_pb2.RequestInfo(parent_output_token_ids=ids)
