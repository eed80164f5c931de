"""What a call may send: exactly the limit passes, one more does not."""

import pytest

from folovllm.errors import InvalidRequestError
from folovllm.serving.channel import MAX_MESSAGE_BYTES
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2
from tokenizer_service.handlers.engine_messages import is_long
from tokenizer_service.text.limits import Limits, check_response_size

LIMITS = Limits(6)


@pytest.mark.parametrize("text", ["a" * 6, "\u00e9" * 3])
def test_texts(text: str) -> None:
    LIMITS.check_text(text)
    with pytest.raises(InvalidRequestError, match="prompt is over the limit of 6 bytes") as caught:
        LIMITS.check_text(text + "a", "prompt")
    assert caught.value.field == "prompt"


def test_token_ids() -> None:
    LIMITS.check_num_token_ids([0] * 6)
    with pytest.raises(InvalidRequestError, match="7 token ids are over the limit of 6") as caught:
        LIMITS.check_num_token_ids([0] * 7)
    assert caught.value.field == "token_ids"


def test_batches() -> None:
    LIMITS.check_batch([3, 3], "texts")
    with pytest.raises(InvalidRequestError) as caught:
        LIMITS.check_batch([3, 4], "texts")
    assert caught.value.field == "texts"


def test_responses() -> None:
    chunk = messages.TokenizerFileChunk(data=b"a" * MAX_MESSAGE_BYTES)
    chunk.data = chunk.data[: 2 * MAX_MESSAGE_BYTES - chunk.ByteSize()]
    assert chunk.ByteSize() == MAX_MESSAGE_BYTES
    check_response_size(chunk, "texts")
    chunk.data += b"a"
    with pytest.raises(InvalidRequestError) as caught:
        check_response_size(chunk, "texts")
    assert caught.value.field == "texts"


@pytest.mark.parametrize(
    ("field", "value", "most"),
    [("token_ids", 0, 256), ("logprobs", types_pb2.PositionLogprobs(), 32)],
)
def test_an_output_is_long_by_its_parts_however_small_each_is(
    field: str, value: object, most: int
) -> None:
    def output(count: int) -> types_pb2.CompletionOutput:
        return types_pb2.CompletionOutput(**{field: [value] * count})  # type: ignore[arg-type]

    assert [is_long(output(count)) for count in (0, 1, most, most + 1)] == [False] * 3 + [True]
