"""AsyncClient: the tokenizer service, called from asyncio."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Self, Unpack

from grpc_health.v1 import health_pb2

from folovllm.chat import ChatMessage
from folovllm.chat_outputs import ChatOutput, ChatResult
from folovllm.errors import QueueFullError, WrongServiceError, errors_at, errors_within
from folovllm.model_info import ModelInfo
from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.request_id import new_request_id
from folovllm.sampling_params import SamplingParams
from folovllm.score import ScoreOutput
from folovllm.v1 import tokenizer_service_pb2, types_pb2
from folovllm_client.api.async_tokenizing import AsyncTokenizingCalls
from folovllm_client.api.calls.async_calls import pause, run_all
from folovllm_client.api.calls.patience import Patience
from folovllm_client.api.calls.running_calls import RunningCalls
from folovllm_client.api.calls.stream_readers import chat_reader, completion_reader
from folovllm_client.api.chat_requests import (
    MAX_TOOL_ROUNDS,
    ChatOptions,
    ChatRequestOptions,
    Messages,
    ToolFunction,
    chat_request,
)
from folovllm_client.api.requests import (
    DEFAULT_ADDRESS,
    MAX_CONCURRENCY,
    AnySamplingParams,
    Prompt,
    RequestOptions,
    SharedOptions,
    empty_output,
    field_errors,
    generate_request,
    many_requests,
    set_fields,
    set_text_or_ids,
)

if TYPE_CHECKING:
    from folovllm_client.api.tools import Toolbox


class AsyncClient(AsyncTokenizingCalls):
    """A connection to a tokenizer service, made and used inside one running event loop.

    `address` is HOST:PORT, or several, of which the next is asked where a stream cannot go on at
    one; ConfigError is raised for what is none. `timeout` is the default deadline of each call, in
    seconds; None means no deadline. Every method raises the classes of
    `folovllm.errors`, such as InvalidRequestError, QueueFullError, DeadlineError, UnavailableError
    and, after `close`, ClientClosedError. Cancelling the task that waits for a call
    cancels the call.

    What generates goes on by itself when a connection breaks, where it was and with nothing twice.
    `resume=False` ends it with ConnectionLostError, and leaves the seed to the server.

    An iterator's call begins when the first item is requested; closing the iterator cancels it.
    Leaving `async for piece in client.stream(…)` closes it; one kept in a variable is closed by
    `contextlib.aclosing`, or when it is dropped.
    """

    def __init__(
        self, address: str | Sequence[str] = DEFAULT_ADDRESS, timeout: float | None = None
    ) -> None:
        super().__init__(address, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: AnySamplingParams = None,
        *,
        timeout: float | None = None,
        resume: bool = True,
        **options: Unpack[RequestOptions],
    ) -> RequestOutput:
        """All continuations of a prompt, complete.

        Sampling parameters may be keywords too, as in `generate("Hello", max_tokens=32)`; without
        any the model's own defaults apply. See RequestOptions for the rest.
        """
        request = generate_request(prompt, sampling_params, return_prompt_token_ids=True, **options)
        output = empty_output(prompt)
        async with aclosing(self.send(request, timeout, resume=resume)) as pieces:
            async for piece in pieces:
                output.add(piece)
        return output

    async def generate_many(
        self,
        prompts: Iterable[Prompt],
        sampling_params: AnySamplingParams = None,
        *,
        max_concurrency: int = MAX_CONCURRENCY,
        timeout: float | None = None,
        **options: Unpack[SharedOptions],
    ) -> list[RequestOutput]:
        """The complete continuations of every prompt, in the order of the prompts.

        At most `max_concurrency` requests run at a time; `timeout` is for each. One that is refused
        because too much waits is sent again when the server says. If one fails, the others are
        cancelled, and the error says which prompt it was.
        """
        requests = many_requests(prompts, sampling_params, max_concurrency, **options)
        calls = RunningCalls()
        jobs = [
            partial(self._complete_in_turn, request, prompt, timeout, calls, f"prompts[{index}]")
            for index, (prompt, request) in enumerate(requests)
        ]
        with self._calls.running(calls):
            return await run_all(jobs, max_concurrency, calls)

    def stream(
        self,
        prompt: Prompt,
        sampling_params: AnySamplingParams = None,
        *,
        timeout: float | None = None,
        resume: bool = True,
        **options: Unpack[RequestOptions],
    ) -> AsyncGenerator[CompletionOutput, None]:
        """The pieces of all continuations as they come; everything else as in `generate`."""
        request = generate_request(prompt, sampling_params, **options)
        return self.send(request, timeout, resume=resume)

    def send(
        self,
        request: tokenizer_service_pb2.GenerateRequest,
        timeout: float | None = None,
        *,
        resume: bool = True,
    ) -> AsyncGenerator[CompletionOutput, None]:
        """Sends a protobuf message; otherwise the same as `stream`.

        With `resume`, request_id and seed are added if they are not set. A message that resumes
        a stream by itself is sent as it is.
        """
        if resume and not request.HasField("resume"):
            return self._resumed(request, timeout, completion_reader)
        return self._stream(self._stub.Generate, request, timeout, completion_reader())

    async def chat(
        self,
        messages: Messages,
        *,
        timeout: float | None = None,
        resume: bool = True,
        **options: Unpack[ChatRequestOptions],
    ) -> ChatResult:
        """The next turn of a conversation, complete.

        `messages` are ChatMessages or dicts such as {"role": "user", "content": "Hello"}, or one
        text. Sampling parameters may be keywords, by vLLM's names or OpenAI's; without any the
        model's own defaults apply, and the answer may be as long as the context. See
        ChatRequestOptions for the rest.
        """
        result, request = ChatResult(), chat_request(messages, **options)
        async with aclosing(self.send_chat(request, timeout, resume=resume)) as outputs:
            async for output in outputs:
                result.add(output)
        return result

    def stream_chat(
        self,
        messages: Messages,
        *,
        timeout: float | None = None,
        resume: bool = True,
        **options: Unpack[ChatRequestOptions],
    ) -> AsyncGenerator[ChatOutput, None]:
        """The events of the next turn as they come."""
        return self.send_chat(chat_request(messages, **options), timeout, resume=resume)

    def send_chat(
        self,
        request: tokenizer_service_pb2.ChatRequest,
        timeout: float | None = None,
        *,
        resume: bool = True,
    ) -> AsyncGenerator[ChatOutput, None]:
        """Sends a protobuf message, as `send` does; otherwise the same as `stream_chat`."""
        if resume and not request.HasField("resume"):
            return self._resumed(request, timeout, chat_reader)
        return self._stream(self._stub.Chat, request, timeout, chat_reader())

    async def chat_with_tools(
        self,
        messages: Messages,
        tools: "Toolbox | Iterable[ToolFunction]",
        *,
        max_rounds: int = MAX_TOOL_ROUNDS,
        timeout: float | None = None,
        **options: Unpack[ChatOptions],
    ) -> tuple[ChatResult, list[ChatMessage]]:
        """Calls tools for the model until it is done. Returns its last answer and all messages.

        `tools` are Python functions with type hints; coroutine functions are awaited.
        After `max_rounds` answers the last one is returned although it calls tools. `timeout` is
        for each answer.
        """
        from folovllm_client.api.tool_rounds import ToolRounds  # pydantic takes a while to import

        rounds = ToolRounds(messages, tools, max_rounds, options)
        while rounds.unfinished:
            rounds.add(
                await self.chat(
                    rounds.messages, tools=rounds.toolbox, timeout=timeout, **rounds.options
                )
            )
            for call in rounds.pending:
                rounds.messages.append(await rounds.toolbox.call_async(call))
        return rounds.result, rounds.messages

    def fork(
        self,
        request_id: str,
        branches: Iterable[SamplingParams],
        index: int = 0,
        *,
        timeout: float | None = None,
        fork_id: str = "",
    ) -> AsyncGenerator[CompletionOutput, None]:
        """Branches a running request at its present position; the pieces of all branches.

        Each of `branches` has n = 1; a piece's index is its branch's. Closing the iterator ends the
        branches, never the parent. Raises NotFoundError if that request is not running.
        """
        request = types_pb2.ForkRequest()
        for number, branch in enumerate(branches):
            with errors_within(f"branches[{number}]"), field_errors("sampling_params"):
                request.branches.append(branch.to_proto())
        set_fields(request, {"request_id": request_id, "index": index, "fork_id": fork_id})
        return self._stream(self._stub.Fork, request, timeout, completion_reader())

    async def score(
        self,
        prompt: Prompt,
        continuations: Iterable[Prompt],
        *,
        timeout: float | None = None,
        priority: int = 0,
        cache_salt: str = "",
    ) -> ScoreOutput:
        """How probable each of the continuations is after the prompt; nothing is generated.

        A text continuation of a text prompt is scored as evaluation harnesses do: both are encoded
        as one text, and white space at the prompt's end belongs to the continuation.
        """
        request = types_pb2.ScoreRequest()
        set_text_or_ids(request, prompt)
        for index, continuation in enumerate(continuations):
            with errors_within(f"continuations[{index}]"):
                set_text_or_ids(request.continuations.add(), continuation)
        set_fields(request, {"priority": priority, "cache_salt": cache_salt})
        return ScoreOutput.from_proto(await self._call(self._stub.Score, request, timeout))

    async def model_info(self) -> ModelInfo:
        """The model that the engines serve; an engine's own if its address was given."""
        request = types_pb2.GetModelInfoRequest()
        try:
            info = await self._call(self._stub.GetModelInfo, request)
        except WrongServiceError:
            info = await self._call(self._engine.GetModelInfo, request)
        return ModelInfo.from_proto(info)

    async def health(self, service: str = "") -> str:
        """The health of a service by its full name, or of the server; "SERVING" when ready.

        Raises NotFoundError for a name that the server does not know.
        """
        request = health_pb2.HealthCheckRequest(service=service)
        status = (await self._call(self._servers.current.health.Check, request)).status
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))

    async def _complete_in_turn(
        self,
        request: tokenizer_service_pb2.GenerateRequest,
        prompt: Prompt,
        timeout: float | None,
        calls: RunningCalls,
        place: str,
    ) -> RequestOutput:
        """The whole answer to a request that is one of `calls`; errors begin with its place.

        What there is no room for is sent again, under its name, at its turn.
        """
        with errors_at(place):
            patience = Patience(self._deadline(timeout))
        request.request_id = request.request_id or new_request_id()
        while True:
            output = empty_output(prompt)
            try:
                with errors_at(place):
                    pieces = self._resumed(request, patience.seconds_left, completion_reader, calls)
                    async with aclosing(pieces):
                        async for piece in pieces:
                            output.add(piece)
                return output
            except QueueFullError as refusal:
                seconds = patience.delay(refusal)
            async with self._errors(None):
                await pause(seconds, calls)
