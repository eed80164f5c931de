"""Progress: what a stream's reader has when the stream goes on after a break."""

from folovllm.chat_outputs import ChatOutput
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2
from folovllm_client.api.calls.progress import Progress, Reader
from folovllm_client.api.calls.stream_readers import chat_reader

REQUEST = messages.ChatRequest(sampling_params=types_pb2.SamplingParams(n=2))
POSITION = types_pb2.PositionLogprobs(token=types_pb2.Logprob(token_id=7))


def info() -> messages.ChatOutput:
    """The RequestInfo by itself, as it comes before any event."""
    resolved = types_pb2.RequestInfo(
        sampling_params=types_pb2.SamplingParams(n=2, seed=1),
        prompt_fingerprint="f",
        prompt_logprobs=[POSITION],
    )
    return messages.ChatOutput(request_id="r", info=resolved)


def event(index: int) -> messages.ChatOutput:
    """The first event of an answer."""
    return messages.ChatOutput(request_id="r", index=index, content_delta="x", token_ids=[5])


def num_positions(read: Reader, index: int) -> int:
    """Of the prompt's, in the info of the first event of an answer."""
    output = read(event(index))
    assert isinstance(output, ChatOutput) and output.info is not None
    return len(output.info.prompt_logprobs)


def test_an_info_is_kept_that_was_received_before_another_answers_event() -> None:
    progress = Progress(REQUEST)
    read = progress.reader(chat_reader)
    assert read(info()) is None
    assert read(event(1)).info is None
    assert num_positions(progress.reader(chat_reader), 0) == 1


def test_an_info_is_taken_anew_where_nothing_has_followed_it() -> None:
    progress = Progress(REQUEST)
    assert progress.reader(chat_reader)(info()) is None
    read = progress.reader(chat_reader)
    assert read(info()) is None
    assert num_positions(read, 0) == 1
