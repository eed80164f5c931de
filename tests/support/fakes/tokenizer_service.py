"""A TokenizerService without a model, on a real socket, for the tests of clients.

Its tokenizer is one id for each character. Its answer to a prompt is the prompt reversed, one
character a piece, with these exceptions:

    "!CODE"    fails with that gRPC status, after one piece for "!!CODE"
    "!N!CODE"  fails so once N "forever" calls have begun
    "forever"  sends one piece and then nothing, until the call is cancelled

Each token has the log-probability -0.5, and as only alternative the next character with -1.5.

A chat is answered by the next of `scripts`, otherwise in the same manner by the last message's
content; see `support.fakes.chat`.

Run as a program, `python -m support.fakes.tokenizer_service PORT`, it serves until SIGTERM and
exits with 0; or it ends with its standard input, which the supervisor holds open.
"""

import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from folovllm.chat_outputs import ChatEvent, ChatFinish, ChatOutput
from folovllm.errors import (
    DETAILS_KEY,
    InvalidRequestError,
    QueueFullError,
    UnavailableError,
    to_status,
    trailing_metadata,
)
from folovllm.serving.healthcheck import TOKENIZER_SERVICE
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import tokenizer_service_pb2_grpc, types_pb2
from support.fakes.chat import METRICS, answer_events

MODEL_INFO = types_pb2.ModelInfo(
    model_id="fake",
    architecture="Qwen3ForCausalLM",
    dtype="float32",
    vocab_size=0x110000,
    eos_token_ids=[0, 3],
    max_model_len=512,
    num_kv_blocks=64,
    block_size=16,
    device="cpu",
    tokenizer_fingerprint="a1",
    model_fingerprint="b2",
    server_version="0.0.1",
    max_n=128,
)


Asked = TypeVar("Asked", messages.GenerateRequest, messages.ChatRequest)


def as_asked(request: Asked) -> Asked:
    """A request without what the client has drawn, so that it could resume: seed and request_id."""
    assert request.request_id.startswith("req-") and request.sampling_params.HasField("seed")
    asked = type(request)()
    asked.CopyFrom(request)
    asked.ClearField("request_id")
    asked.sampling_params.ClearField("seed")
    if not asked.sampling_params.ListFields():
        asked.ClearField("sampling_params")
    return asked


class _WatchedHealth(health.HealthServicer):  # type: ignore[misc]
    """Sets `watched` when a watch begins."""

    def __init__(self) -> None:
        super().__init__()
        self.watched = threading.Event()

    def Watch(self, *arguments: Any) -> Any:
        self.watched.set()
        return super().Watch(*arguments)

    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]  # as the original's


class FakeTokenizerService(tokenizer_service_pb2_grpc.TokenizerServiceServicer):
    """Records its requests; `cancelled` is set when a "forever" call ends.

    `endless` has an event for each of these calls, set at its end.
    StreamDetokenize ends at a piece that ends with ".", and fails at "!CODE" as Generate does.
    """

    def __init__(self) -> None:
        self.address = ""
        self.server = grpc.server(ThreadPoolExecutor(8))
        self._health = _WatchedHealth()
        tokenizer_service_pb2_grpc.add_TokenizerServiceServicer_to_server(self, self.server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        self.requests: list[messages.GenerateRequest] = []
        self.refusals: list[QueueFullError] = []
        """What the next calls of Generate end with, the last first."""
        self.refused = threading.Event()
        self.forks: list[types_pb2.ForkRequest] = []
        self.chats: list[messages.ChatRequest] = []
        self.scripts: list[list[ChatEvent]] = []
        self.deadlines: list[float | None] = []
        self.streams: list[list[messages.StreamDetokenizeRequest]] = []
        self.tokenizer_chunks: list[messages.TokenizerFileChunk] = []
        self.cancelled = threading.Event()
        self.endless: list[threading.Event] = []
        self._endless_began = threading.Condition()
        self.stream_ended = threading.Event()
        self.watched = self._health.watched

    def set_serving(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        self._health.set(TOKENIZER_SERVICE, status.SERVING if serving else status.NOT_SERVING)

    def Generate(self, request: Any, context: Any) -> Iterator[types_pb2.CompletionOutput]:
        self.requests.append(request)
        self.deadlines.append(context.time_remaining())
        if self.refusals:
            refusal = self.refusals.pop()
            context.set_trailing_metadata(trailing_metadata(refusal))
            self.refused.set()
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(refusal))
        ids = list(request.token_ids.ids) or [ord(each) for each in request.text]
        text = "".join(map(chr, ids))
        if late := re.fullmatch(r"!(\d+)(!\w+)", text):
            self.wait_for_endless(int(late[1]))
            text = late[2]
        if text.startswith("!!"):
            yield types_pb2.CompletionOutput(request_id="fake", text="a", token_ids=[97])
        if text.startswith("!"):
            _fail(context, text.lstrip("!"))
        if text == "forever":
            ended = self._end_of(context)
            yield types_pb2.CompletionOutput(request_id="fake", text="a", token_ids=[97])
            ended.wait(30)
            return
        yield from _answer(request, ids)

    def wait_for_endless(self, count: int) -> bool:
        """Waits until so many calls have begun that never end by themselves."""
        with self._endless_began:
            return self._endless_began.wait_for(lambda: len(self.endless) >= count, 10)

    def _end_of(self, context: Any) -> threading.Event:
        """Set when the call ends, as `cancelled` is too."""
        ended = threading.Event()
        context.add_callback(self.cancelled.set)
        if not context.add_callback(ended.set):  # it has ended already
            ended.set()
        with self._endless_began:
            self.endless.append(ended)
            self._endless_began.notify_all()
        return ended

    def Fork(self, request: Any, context: Any) -> Iterator[types_pb2.CompletionOutput]:
        self.forks.append(request)
        if request.request_id != "forever":
            _fail(context, "NOT_FOUND")
        for index, branch in enumerate(request.branches):
            yield types_pb2.CompletionOutput(
                request_id=request.fork_id or "fork",
                index=index,
                text=chr(97 + branch.seed),
                token_ids=[97 + branch.seed],
                finish_reason=types_pb2.FINISH_REASON_LENGTH,
            )

    def Score(self, request: Any, context: Any) -> types_pb2.ScoreResponse:
        response = types_pb2.ScoreResponse(request_id=request.request_id or "score")
        for continuation in request.continuations:
            ids = list(continuation.token_ids.ids) or [ord(each) for each in continuation.text]
            response.continuations.add(
                token_ids=ids,
                logprobs=[-0.5] * len(ids),
                ranks=[1] * len(ids),
                cumulative_logprob=-0.5 * len(ids),
                is_greedy=True,
            )
        return response

    def Tokenize(self, request: Any, context: Any) -> messages.TokenizeResponse:
        special = [2] if request.add_special_tokens else []
        response = messages.TokenizeResponse()
        for text in request.texts:
            response.encodings.add(token_ids=special + [ord(each) for each in text])
        return response

    def Detokenize(self, request: Any, context: Any) -> messages.DetokenizeResponse:
        skip = request.skip_special_tokens
        return messages.DetokenizeResponse(
            texts=[_text(sequence.ids, skip) for sequence in request.sequences]
        )

    def StreamDetokenize(
        self, requests: Any, context: Any
    ) -> Iterator[messages.StreamDetokenizeResponse]:
        self.streams.append([])
        context.add_callback(self.stream_ended.set)
        skip, num_token_ids = True, 0
        for request in requests:
            self.streams[-1].append(request)
            if request.HasField("options"):
                skip = request.options.skip_special_tokens
                continue
            num_token_ids += len(request.token_ids.ids)
            text = _text(request.token_ids.ids, skip)
            if text.startswith("!"):
                _fail(context, text[1:])
            stop = "." if text.endswith(".") else None
            yield messages.StreamDetokenizeResponse(
                text=text, num_token_ids=num_token_ids, stop_string=stop, finished=stop is not None
            )
            if stop is not None:
                return
        yield messages.StreamDetokenizeResponse(num_token_ids=num_token_ids, finished=True)

    def CountTokens(self, request: Any, context: Any) -> messages.CountTokensResponse:
        return messages.CountTokensResponse(num_tokens=1 + len(request.text))

    def GetTokenizer(self, request: Any, context: Any) -> Iterator[messages.TokenizerFileChunk]:
        yield from self.tokenizer_chunks

    def Chat(self, request: Any, context: Any) -> Iterator[messages.ChatOutput]:
        self.chats.append(request)
        self.deadlines.append(context.time_remaining())
        said = request.messages[-1].content
        if said.startswith("!") and not said.startswith("!!"):
            _fail(context, said[1:])
        events = self.scripts.pop(0) if self.scripts else answer_events(request)
        endless = not said.startswith("!") and not isinstance(events[-1], ChatFinish)
        ended = self._end_of(context) if endless else None
        for index in range(request.sampling_params.n or 1):
            for event in events:
                output = ChatOutput(event, request.request_id or "fake", index, [97])
                yield output.to_proto()
        if said.startswith("!!"):
            _fail(context, said[2:])
        if ended is not None:
            ended.wait(30)

    def ApplyChatTemplate(self, request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not supported yet")

    # No client of ours calls them: it streams, and joins the answer by itself.
    GenerateOnce = ChatOnce = ApplyChatTemplate

    def GetModelInfo(self, request: Any, context: Any) -> types_pb2.ModelInfo:
        return MODEL_INFO


def _text(ids: Iterable[int], skip_special_tokens: bool) -> str:
    return "".join(chr(each) for each in ids if each > 3 or not skip_special_tokens)


def _logprobs(token_id: int, num_tops: int) -> types_pb2.PositionLogprobs:
    token = types_pb2.Logprob(token_id=token_id, logprob=-0.5, rank=1)
    other = types_pb2.Logprob(token_id=token_id + 1, logprob=-1.5, rank=2)
    return types_pb2.PositionLogprobs(token=token, top=(token, other)[:num_tops])


def _answer(request: Any, ids: list[int]) -> Iterator[types_pb2.CompletionOutput]:
    params = request.sampling_params
    for index in range(params.n or 1):
        for position, token_id in enumerate(reversed(ids)):
            piece = types_pb2.CompletionOutput(
                request_id=request.request_id or "fake",
                index=index,
                text=chr(token_id),
                token_ids=[token_id],
            )
            if index == position == 0:
                piece.info.prompt_tokens = len(ids)
                if request.return_prompt_token_ids:
                    piece.info.prompt_token_ids.extend(ids)
                if params.HasField("prompt_logprobs"):
                    first, *rest = ids
                    piece.info.prompt_logprobs.add().token.token_id = first
                    piece.info.prompt_logprobs.extend(
                        _logprobs(each, params.prompt_logprobs) for each in rest
                    )
            if params.HasField("logprobs"):
                piece.logprobs.append(_logprobs(token_id, params.logprobs))
            if position == len(ids) - 1:
                piece.finish_reason = types_pb2.FINISH_REASON_LENGTH
                piece.usage.prompt_tokens = piece.usage.completion_tokens = len(ids)
                piece.metrics.CopyFrom(METRICS.to_proto())
            yield piece


def _fail(context: Any, code: str) -> None:
    error = {
        "INVALID_ARGUMENT": InvalidRequestError("sampling_params.top_p", "top_p is wrong"),
        "UNAVAILABLE": UnavailableError("no engine is ready"),
    }.get(code)
    if error is not None:
        details = to_status(error).SerializeToString()
        context.set_trailing_metadata(((DETAILS_KEY, details),))
    context.abort(grpc.StatusCode[code], str(error) if error else "as requested")


@contextmanager
def running_fake(port: int = 0) -> Iterator[FakeTokenizerService]:
    """A fake that is SERVING at its `address`."""
    fake = FakeTokenizerService()
    fake.address = f"127.0.0.1:{fake.server.add_insecure_port(f'127.0.0.1:{port}')}"
    fake.set_serving(True)
    fake.server.start()
    try:
        yield fake
    finally:
        fake.server.stop(None).wait()


def _end_with_input() -> None:
    """Ends the process, whatever it does, when the one that has started it is gone."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    # Blocked before any thread starts, and waited for: an Event's lock is not for signal handlers.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_input, daemon=True).start()
    with running_fake(int(sys.argv[1])):
        print("fake: serving", file=sys.stderr, flush=True)
        signal.sigwait({signal.SIGTERM})
    print("fake: stopped", file=sys.stderr, flush=True)
