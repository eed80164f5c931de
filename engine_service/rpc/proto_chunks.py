"""Outputs as messages of bounded size; those of a slow reader may have grown by merging."""

from collections.abc import Iterator
from dataclasses import replace

from folovllm.outputs import CompletionOutput
from folovllm.v1 import types_pb2

# Positions with log-probabilities in one message: 330 KiB at most, beside those of a prompt.
_MOST_POSITIONS = 1024


def proto_chunks(output: CompletionOutput) -> Iterator[types_pb2.CompletionOutput]:
    """The messages of an output, in order; more than one where it has many log-probabilities."""
    while len(output.logprobs) > _MOST_POSITIONS:
        later = output.logprobs[_MOST_POSITIONS:]
        assert output.cumulative_logprob is not None
        yield CompletionOutput(
            output.request_id,
            output.index,
            token_ids=output.token_ids[:_MOST_POSITIONS],
            logprobs=output.logprobs[:_MOST_POSITIONS],
            cumulative_logprob=output.cumulative_logprob
            - sum(position.token.logprob or 0.0 for position in later),
            info=output.info,
        ).to_proto()
        output = replace(
            output, token_ids=output.token_ids[_MOST_POSITIONS:], logprobs=later, info=None
        )
    yield output.to_proto()
