"""AsyncLLM: many callers of an event loop share a model; vLLM's class of this name."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from folovllm.model_info import ModelInfo
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams
from folovllm_client.api.prompt_parts import Prompt, PromptParts
from folovllm_client.launch.service_commands import require_services
from folovllm_client.llm.engine_args import EngineArgs
from folovllm_client.llm.resuming import errors_about

if TYPE_CHECKING:
    from engine_service.core.request import Request
    from engine_service.engine.async_engine import AsyncEngine
    from folovllm.errors import EngineDeadError
    from folovllm_client.llm.chat_tokenizer import ChatTokenizer
    from folovllm_client.llm.request_builder import RequestBuilder
    from folovllm_client.llm.request_state import GenerationState


class AsyncLLM:
    """Streams the outputs of many requests at once. All methods belong to one event loop.

    The model is loaded on a thread of its own, from now on or, if no event loop runs yet, from the
    first call on that waits for it. What fails there is raised by every such call.
    """

    def __init__(self, engine_args: EngineArgs) -> None:
        """Begins to load the model. Raises ConfigError for invalid arguments."""
        require_services()
        from folovllm_client.llm.chat_tokenizer import ChatTokenizer
        from folovllm_client.llm.loading import load_text_model
        from tokenizer_service.text.offload import Offload

        engine_args.engine_config()
        self._args = engine_args
        self._text_model = load_text_model(engine_args)
        self.tokenizer = ChatTokenizer(self._text_model)
        """Of the model; what `get_tokenizer` returns."""
        self._offload = Offload()
        self._engine: AsyncEngine | None = None
        self._loading: asyncio.Task[RequestBuilder] | None = None
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        self._loading = self._begin()

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> "AsyncLLM":
        """As vLLM's users make one."""
        return cls(engine_args)

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None,
        request_id: str,
        *,
        priority: int = 0,
    ) -> AsyncGenerator[RequestOutput, None]:
        """The outputs of a request as they come; SamplingParams.output_kind says what each holds.

        Closing the iterator ends the request, whose KV is free one step later. Raises
        InvalidRequestError if the request can never be served or its id is in use, and
        EngineDeadError if the engine fails.
        """

        engine, requests = await self._loaded()
        parts = PromptParts.read(prompt)
        size = len(parts.text_or_ids)
        request, state = await self._offload.run(
            size, requests.request, request_id, parts, sampling_params, priority
        )
        async with aclosing(_outputs(engine, request, state)) as outputs:
            async for output in outputs:
                yield output

    async def resume(
        self, output: RequestOutput, request_id: str, *, priority: int = 0
    ) -> AsyncGenerator[RequestOutput, None]:
        """Goes on with an output that was cut off, as if it had never been; see LLM.resume.

        A CUMULATIVE output holds what there was before too. Otherwise as `generate`.
        """
        engine, requests = await self._loaded()
        request, state = await asyncio.to_thread(requests.resumed, request_id, output, priority)
        with errors_about(output):
            async with aclosing(_outputs(engine, request, state)) as outputs:
                async for resumed in outputs:
                    yield resumed

    async def abort(self, request_id: str | Iterable[str]) -> None:
        """Ends requests, whose last outputs have the finish reason "abort".

        Ids of requests that do not run are ignored.
        """
        engine, _ = await self._loaded()
        for name in [request_id] if isinstance(request_id, str) else request_id:
            engine.abort(name)

    async def check_health(self) -> None:
        """Waits until the model is loaded; raises ConfigError if it cannot be, EngineDeadError if
        the engine has failed or was shut down.
        """
        engine, _ = await self._loaded()
        assert engine.info

    async def get_model_info(self) -> ModelInfo:
        """What was loaded, and how."""
        engine, _ = await self._loaded()
        return engine.info

    def get_tokenizer(self) -> "ChatTokenizer":
        """The model's tokenizer, with its chat template."""
        return self.tokenizer

    def get_num_unfinished_requests(self) -> int:
        """Requests that were added and have not ended."""
        return self._engine.num_requests if self._engine else 0

    @property
    def is_running(self) -> bool:
        """Whether requests may be sent."""
        return not self.errored

    @property
    def errored(self) -> bool:
        """Whether the engine has failed or was shut down."""
        return self.dead_error is not None

    @property
    def dead_error(self) -> "EngineDeadError | None":
        """What requests to an engine that has failed or was shut down raise; None if it runs."""
        return self._engine.dead_error if self._engine else None

    def shutdown(self) -> None:
        """Ends the engine after its present step; running requests end with EngineDeadError."""
        if self._engine is not None:
            self._engine.begin_to_stop()

    def _begin(self) -> "asyncio.Task[RequestBuilder]":
        """Begins to load the model, on the engine's thread."""
        from engine_service.engine.async_engine import AsyncEngine
        from folovllm_client.llm.loading import load_engine

        build = partial(load_engine, self._args, self._text_model)
        # Callers bound what they send by themselves, as vLLM's do.
        self._engine = AsyncEngine(build, queue_config=None)
        return asyncio.get_running_loop().create_task(self._start(self._engine))

    async def _start(self, engine: "AsyncEngine") -> "RequestBuilder":
        from folovllm_client.llm.request_builder import RequestBuilder

        await engine.start()
        return RequestBuilder(
            self._text_model.tokenizer,
            engine.info,
            engine.default_sampling_params,
            self._args.seed,
        )

    async def _loaded(self) -> "tuple[AsyncEngine, RequestBuilder]":
        """The engine and what makes its requests, once the model is loaded."""
        if self._loading is None:
            self._loading = self._begin()
        requests = await asyncio.shield(self._loading)
        assert self._engine is not None
        return self._engine, requests


async def _outputs(
    engine: "AsyncEngine", request: "Request", state: "GenerationState"
) -> AsyncGenerator[RequestOutput, None]:
    """What the caller gets of a request, until it ends or the iterator is closed."""
    from engine_service.engine.commands import Generate

    async with engine.running(Generate(request)) as stream:
        async for delta in stream:
            if state.take(delta):
                engine.abort(request.request_id, [delta.index])
            output = state.report()
            if output is not None:
                yield output
