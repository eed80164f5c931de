"""Whatever an output has, its messages are small, and joined they are the output."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_service.rpc.output_messages import output_messages
from folovllm.bounds.table import message_bounds
from folovllm.logprobs import Logprob, PositionLogprobs
from folovllm.outputs import CompletionOutput, FinishReason, RequestInfo, RequestOutput, Usage
from folovllm.parameters.structured_output import StructuredOutput
from folovllm.sampling_params import SamplingParams
from folovllm.score import MAX_SCORED_TOKENS, ContinuationScore, ScoreOutput
from folovllm.serving.channel import MAX_MESSAGE_BYTES
from folovllm.v1 import types_pb2
from folovllm_client.api.calls.stream_readers import completion_reader

LARGEST = 2**32 - 1
# More than fit into one message many times over.
NUM_ENTRIES = 20_000
NUM_PARENT_IDS = 100_000


def position(token_id: int, num_tops: int) -> PositionLogprobs:
    top = tuple(Logprob(LARGEST - i, -1.5, LARGEST) for i in range(num_tops))
    return PositionLogprobs(Logprob(token_id, -0.5, LARGEST), top)


def long_output(num_positions: int, num_tops: int, num_parent_ids: int) -> CompletionOutput:
    first = PositionLogprobs(Logprob(7, None, None))
    rest = tuple([position(LARGEST, num_tops)] * (num_positions - 1))
    info = RequestInfo(
        SamplingParams(seed=2**64 - 1),
        "model",
        "tokenizer",
        prompt_tokens=LARGEST,
        cached_tokens=3,
        prompt_logprobs=(first, *rest) if num_positions else (),
        parent_output_token_ids=tuple(range(LARGEST - num_parent_ids, LARGEST)),
    )
    return CompletionOutput(
        "é" * 128, 3, token_ids=[5, LARGEST], finish_reason=FinishReason.LENGTH,
        usage=Usage(1, 2, 3), info=info,
    )  # fmt: skip


def joined(messages: list[types_pb2.CompletionOutput]) -> CompletionOutput:
    """As a client that takes the deltas as they come."""
    outputs = RequestOutput.join(map(CompletionOutput.from_proto, messages)).outputs
    return outputs[3]


@pytest.mark.parametrize("num_tops", [0, 20])
def test_the_longest_output_has_small_messages(num_tops: int) -> None:
    num_positions = NUM_ENTRIES // (1 + num_tops)
    output = long_output(num_positions, num_tops, NUM_PARENT_IDS)
    messages = list(output_messages(output))
    sizes = [message.ByteSize() for message in messages]
    assert max(sizes) < MAX_MESSAGE_BYTES // 32 < sum(sizes) // 5
    assert sum(len(message.info.prompt_logprobs) for message in messages) == num_positions
    *parts, last = messages
    assert not any(message.token_ids or message.finish_reason for message in parts)
    assert last == replace(output, info=None).to_proto()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 40), st.integers(0, 3), st.integers(0, 40))
def test_joined_they_are_the_output(num_positions: int, num_tops: int, num_ids: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine_service.rpc.output_messages.MAX_ENTRIES", 8)
        patch.setattr("engine_service.rpc.output_messages.MAX_IDS", 8)
        output = long_output(num_positions, num_tops, num_ids)
        messages = list(output_messages(output))
    for message in messages:
        num_entries = sum(1 + len(each.top) for each in message.info.prompt_logprobs)
        assert max(num_entries, len(message.info.parent_output_token_ids)) <= 8
    assert joined(messages) == output
    # As gRPC's own way to join messages, and as the client library.
    merged = types_pb2.CompletionOutput()
    for message in messages:
        merged.MergeFrom(message)
    assert CompletionOutput.from_proto(merged) == output
    read = completion_reader()
    assert [each for message in messages if (each := read(message))] == [output]


def test_the_largest_parameters_and_scores_fit() -> None:
    """What is not split: the echo of the parameters, and Score's answer."""
    bounds = message_bounds(types_pb2.SamplingParams.DESCRIPTOR)
    ids = tuple(range(LARGEST - bounds.max_count("stop_token_ids"), LARGEST))
    words = bounds.max_elements("bad_words_token_ids") // 512
    params = SamplingParams(
        stop_token_ids=ids,
        logit_bias=tuple((LARGEST - i, -0.5) for i in range(bounds.max_count("logit_bias"))),
        bad_words_token_ids=(tuple(range(LARGEST - 512, LARGEST)),) * words,
        structured_output=StructuredOutput("json_schema", "s" * bounds.max_bytes("json_schema")),
    )
    info = RequestInfo(params, "model", "tokenizer", prompt_tokens=LARGEST)
    (message,) = output_messages(replace(long_output(0, 0, 0), info=info))
    assert MAX_MESSAGE_BYTES // 16 < message.ByteSize() < MAX_MESSAGE_BYTES // 4
    most = MAX_SCORED_TOKENS
    score = ContinuationScore((LARGEST,) * most, (-0.5,) * most, (LARGEST,) * most).to_proto()
    assert (
        ScoreOutput("é" * 128, ()).to_proto().ByteSize() + score.ByteSize() < MAX_MESSAGE_BYTES // 2
    )


def test_a_short_output_is_one_message() -> None:
    output = long_output(30, 2, 30)
    assert list(output_messages(output)) == [output.to_proto()]


def test_the_infos_of_branches_are_not_mixed() -> None:
    output = long_output(0, 0, 40_000)
    outputs = [replace(output, index=index) for index in range(3)]
    streams = [list(output_messages(each)) for each in outputs]
    assert all(len(messages) > 2 for messages in streams)
    in_turn = [message for messages in zip(*streams, strict=True) for message in messages]
    read = completion_reader()
    assert [each for message in in_turn if (each := read(message))] == outputs
    result = RequestOutput.join(map(CompletionOutput.from_proto, in_turn))
    assert result.outputs == outputs and result.info == outputs[2].info
