"""TokenizerServicer: the calls of folovllm.v1.TokenizerService.

A call is checked before any work in proportion to its input; every error names the field by the
path that the caller used.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, NoReturn

import grpc
import structlog

from folovllm.errors import InvalidRequestError, ServerError, UnsupportedError
from folovllm.outputs import CompletionOutput
from folovllm.request_id import new_request_id
from folovllm.sampling_params import SamplingParams
from folovllm.score import ScoreOutput
from folovllm.v1 import tokenizer_service_pb2, tokenizer_service_pb2_grpc, types_pb2
from tokenizer_service.bad_words import resolve_bad_words
from tokenizer_service.engine_pool import EnginePool
from tokenizer_service.fork_call import ForkCall
from tokenizer_service.output_processor import OutputProcessor
from tokenizer_service.score_call import engine_score_request, read_score
from tokenizer_service.scoring import encode_score
from tokenizer_service.tokenizer import Tokenizer, check_token_ids

Context = grpc.aio.ServicerContext[Any, Any]

# This many characters or token ids are converted in about a millisecond; more go to a thread.
_MAX_INLINE = 2048


class TokenizerServicer(tokenizer_service_pb2_grpc.TokenizerServiceServicer):
    """Encodes prompts, sends them to an engine, and turns what comes back into text."""

    def __init__(self, tokenizer: Tokenizer, engines: EnginePool, max_prompt_bytes: int) -> None:
        self._tokenizer = tokenizer
        self._engines = engines
        self._max_prompt_bytes = max_prompt_bytes

    async def Generate(
        self, request: tokenizer_service_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[types_pb2.CompletionOutput]:
        """Generates n continuations of a prompt."""
        request_id = request.request_id or new_request_id()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        params = SamplingParams.from_proto(request.sampling_params)
        prompt_token_ids = await self._prompt_token_ids(request)
        engine = self._engines.pick()
        _check_fits(prompt_token_ids, engine.model_info, request.WhichOneof("prompt") or "prompt")
        processor = OutputProcessor(self._tokenizer, params)
        resolved = await self._resolve_bad_words(params)
        engine_request = _engine_request(request, request_id, prompt_token_ids, resolved)
        timeout = context.time_remaining()
        try:
            async with aclosing(engine.generate(engine_request, timeout)) as deltas:
                async for message in deltas:
                    prompt_logprobs = _take_prompt_logprobs(message)
                    processed = processor.process(CompletionOutput.from_proto(message))
                    if processed.stopped_index is not None:
                        indexes = [processed.stopped_index]
                        await engine.abort(request_id, indexes, timeout)
                    for output in processed.outputs:
                        _complete_info(output, request, params, prompt_token_ids)
                        reply = output.to_proto()
                        if output.info is not None:
                            reply.info.prompt_logprobs.extend(prompt_logprobs)
                        yield reply
        except InvalidRequestError as error:
            raise _in_callers_words(error, request) from None
        if not processor.finished:
            raise ServerError("the engine ended the stream without a final message")

    async def Fork(
        self, request: types_pb2.ForkRequest, context: Context
    ) -> AsyncIterator[types_pb2.CompletionOutput]:
        """Branches a running request."""
        fork = await asyncio.to_thread(ForkCall, request, self._tokenizer)
        structlog.contextvars.bind_contextvars(request_id=fork.fork_id, parent=request.request_id)
        engine = self._engines.running(request.request_id)
        async with aclosing(fork.outputs(engine, context.time_remaining())) as outputs:
            async for output in outputs:
                yield output.to_proto()

    async def Score(
        self, request: types_pb2.ScoreRequest, context: Context
    ) -> types_pb2.ScoreResponse:
        """Says how probable given continuations are."""
        request_id = request.request_id or new_request_id()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        prompt, continuations = read_score(request)
        self._check_score_size(prompt, continuations)
        engine = self._engines.pick()
        encoded = await asyncio.to_thread(
            encode_score,
            self._tokenizer,
            prompt,
            continuations,
            engine.model_info.max_model_len,
        )
        engine_request = engine_score_request(request, request_id, encoded)
        response = await engine.score(engine_request, context.time_remaining())
        return encoded.scores(ScoreOutput.from_proto(response)).to_proto()

    async def Tokenize(
        self, request: tokenizer_service_pb2.TokenizeRequest, context: Context
    ) -> tokenizer_service_pb2.TokenizeResponse:
        """Text to token ids."""
        self._check_text(request.text)
        add_special_tokens = (
            request.add_special_tokens if request.HasField("add_special_tokens") else True
        )
        token_ids = await self._encode(request.text, add_special_tokens)
        return tokenizer_service_pb2.TokenizeResponse(token_ids=token_ids)

    async def Detokenize(
        self, request: tokenizer_service_pb2.DetokenizeRequest, context: Context
    ) -> tokenizer_service_pb2.DetokenizeResponse:
        """Token ids to text."""
        self._check_num_token_ids(request.token_ids)
        token_ids = list(request.token_ids)
        check_token_ids(token_ids, self._model_vocab_size())
        skip_special_tokens = (
            request.skip_special_tokens if request.HasField("skip_special_tokens") else True
        )
        text = await self._decode(token_ids, skip_special_tokens)
        return tokenizer_service_pb2.DetokenizeResponse(text=text)

    async def GetModelInfo(
        self, request: types_pb2.GetModelInfoRequest, context: Context
    ) -> types_pb2.ModelInfo:
        """The model that the engines serve."""
        return self._engines.model_info()

    async def Chat(
        self, request: tokenizer_service_pb2.ChatRequest, context: Context
    ) -> AsyncIterator[tokenizer_service_pb2.ChatOutput]:
        """Not served yet."""
        _refuse_chat()
        yield  # makes this a stream, as the contract has it

    async def ApplyChatTemplate(
        self, request: tokenizer_service_pb2.ApplyChatTemplateRequest, context: Context
    ) -> tokenizer_service_pb2.ApplyChatTemplateResponse:
        """Not served yet."""
        _refuse_chat()

    async def _prompt_token_ids(
        self, request: tokenizer_service_pb2.GenerateRequest
    ) -> Sequence[int]:
        """The prompt as token ids. Raises InvalidRequestError."""
        kind = request.WhichOneof("prompt")
        if kind is None:
            raise InvalidRequestError("prompt", "give the prompt as text or as token_ids")
        if kind == "token_ids":
            self._check_num_token_ids(request.token_ids.ids)
            token_ids: Sequence[int] = request.token_ids.ids
        else:
            self._check_text(request.text)
            token_ids = await self._encode(request.text, add_special_tokens=True)
        if not token_ids:
            raise InvalidRequestError(kind, "the prompt is empty")
        return token_ids

    async def _resolve_bad_words(self, params: SamplingParams) -> SamplingParams:
        if sum(map(len, params.bad_words)) <= _MAX_INLINE:
            return resolve_bad_words(params, self._tokenizer)
        return await asyncio.to_thread(resolve_bad_words, params, self._tokenizer)

    async def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        if len(text) <= _MAX_INLINE:
            return self._tokenizer.encode(text, add_special_tokens)
        return await asyncio.to_thread(self._tokenizer.encode, text, add_special_tokens)

    async def _decode(self, token_ids: list[int], skip_special_tokens: bool) -> str:
        if len(token_ids) <= _MAX_INLINE:
            return self._tokenizer.decode_known(token_ids, skip_special_tokens)
        return await asyncio.to_thread(self._tokenizer.decode_known, token_ids, skip_special_tokens)

    def _check_text(self, text: str) -> None:
        # A character has at least one byte, so the longest texts need not be encoded to be refused.
        most = self._max_prompt_bytes
        if len(text) > most or len(text.encode()) > most:
            raise InvalidRequestError("text", f"text is over the limit of {most} bytes")

    def _check_score_size(
        self, prompt: str | Sequence[int], continuations: Sequence[str | Sequence[int]]
    ) -> None:
        """The prompt with all continuations is bounded as a prompt is."""
        parts = (prompt, *continuations)
        num_bytes = sum(len(p.encode()) if isinstance(p, str) else len(p) for p in parts)
        if num_bytes > self._max_prompt_bytes:
            raise InvalidRequestError(
                "continuations",
                f"prompt and continuations are over the limit of {self._max_prompt_bytes} bytes",
            )

    def _check_num_token_ids(self, token_ids: Sequence[int]) -> None:
        """A token stands for at least one byte, so the limit on bytes bounds the ids too."""
        most = self._max_prompt_bytes
        if len(token_ids) > most:
            raise InvalidRequestError(
                "token_ids", f"{len(token_ids)} token ids are over the limit of {most}"
            )

    def _model_vocab_size(self) -> int:
        """The model's where an engine has told it, which padding makes the larger one."""
        if not self._engines.ready:
            return self._tokenizer.vocab_size
        return max(self._tokenizer.vocab_size, self._engines.model_info().vocab_size)


def _check_fits(
    prompt_token_ids: Sequence[int], model_info: types_pb2.ModelInfo, field: str
) -> None:
    """Keeps what the engine would refuse from travelling there; it checks all the rest itself."""
    if len(prompt_token_ids) >= model_info.max_model_len:
        raise InvalidRequestError(
            field,
            f"the prompt has {len(prompt_token_ids)} tokens; with one to generate the model takes "
            f"at most {model_info.max_model_len}",
        )


def _engine_request(
    request: tokenizer_service_pb2.GenerateRequest,
    request_id: str,
    prompt_token_ids: Sequence[int],
    resolved: SamplingParams,
) -> types_pb2.Request:
    """The request without what is this service's own part: text, of which ids are `resolved`."""
    engine_request = types_pb2.Request(
        request_id=request_id,
        prompt_token_ids=prompt_token_ids,
        # As it came: for what is not set the engine takes the model's defaults, not ours.
        sampling_params=request.sampling_params,
        priority=request.priority,
        cache_salt=request.cache_salt,
    )
    for name in ("stop", "bad_words", "bad_words_token_ids"):
        engine_request.sampling_params.ClearField(name)
    engine_request.sampling_params.bad_words_token_ids.extend(
        resolved.to_proto().bad_words_token_ids
    )
    return engine_request


def _take_prompt_logprobs(message: types_pb2.CompletionOutput) -> list[types_pb2.PositionLogprobs]:
    """Takes a prompt's log-probabilities out of a message, to be passed on as they are.

    There may be 200,000 of them; to convert them here would hold up all other streams.
    """
    if not message.HasField("info"):
        return []
    taken = list(message.info.prompt_logprobs)
    message.info.ClearField("prompt_logprobs")
    return taken


def _complete_info(
    output: CompletionOutput,
    request: tokenizer_service_pb2.GenerateRequest,
    params: SamplingParams,
    prompt_token_ids: Sequence[int],
) -> None:
    """Adds to the engine's account of the request what only this service knows."""
    if output.info is None:
        return
    output.info = replace(
        output.info,
        sampling_params=output.info.sampling_params.clone(
            stop=params.stop, bad_words=params.bad_words
        ),
        prompt_token_ids=tuple(prompt_token_ids) if request.return_prompt_token_ids else (),
    )


def _in_callers_words(
    error: InvalidRequestError, request: tokenizer_service_pb2.GenerateRequest
) -> InvalidRequestError:
    """The engine's complaint about its prompt, by the field in which the caller gave it."""
    if error.field != "prompt_token_ids":
        return error
    return InvalidRequestError(request.WhichOneof("prompt") or "prompt", str(error))


def _refuse_chat() -> NoReturn:
    raise UnsupportedError("Chat is not supported yet")
