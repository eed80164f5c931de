"""GenerateCall: one call of Generate, from the caller's text to the engine's ids and back."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence

from folovllm.errors import InvalidRequestError
from folovllm.outputs import CompletionOutput
from folovllm.request_id import new_request_id
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import tokenizer_service_pb2, types_pb2
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.engines.run import EngineRun
from tokenizer_service.handlers.request_info import take_info
from tokenizer_service.text.bad_words import resolve_bad_words
from tokenizer_service.text.codec import MAX_INLINE, Codec
from tokenizer_service.text.output_processor import OutputProcessor


class GenerateCall:
    """n continuations of a prompt. Raises InvalidRequestError when made."""

    def __init__(self, request: tokenizer_service_pb2.GenerateRequest, codec: Codec) -> None:
        self.request_id = request.request_id or new_request_id()
        self._request = request
        self._codec = codec
        self._params = SamplingParams.from_proto(request.sampling_params)

    async def outputs(
        self, engines: EnginePool
    ) -> AsyncGenerator[types_pb2.CompletionOutput, None]:
        """What the engine brings, as text too. Raises FolovError; closing it ends the request."""
        prompt_token_ids = await self._prompt_token_ids()
        check_fits(
            prompt_token_ids, engines.model_info(), self._request.WhichOneof("prompt") or "prompt"
        )
        engine_request = await self._engine_request(prompt_token_ids)
        processor = OutputProcessor(self._codec.tokenizer, self._params)
        try:
            with engines.generate(engine_request) as run:
                info: types_pb2.RequestInfo | None = None
                async for message in run:
                    info = take_info(message, self._params) or info
                    for reply in self._replies(message, processor, run):
                        if info is not None and reply.index == 0:
                            if self._request.return_prompt_token_ids:
                                info.prompt_token_ids.extend(prompt_token_ids)
                            reply.info.CopyFrom(info)
                            info = None
                        yield reply
        except InvalidRequestError as error:
            raise self._in_callers_words(error) from None

    def _replies(
        self, message: types_pb2.CompletionOutput, processor: OutputProcessor, run: EngineRun
    ) -> Iterator[types_pb2.CompletionOutput]:
        """What to send for a piece of the engine's; most often the piece itself with its text."""
        if not message.finish_reason:
            text = processor.text_of(message.index, message.token_ids)
            if text is not None:
                message.text = text
                yield message
                return
        processed = processor.process(CompletionOutput.from_proto(message))
        if processed.stopped_index is not None:
            run.abort([processed.stopped_index])
        for output in processed.outputs:
            yield output.to_proto()

    async def _prompt_token_ids(self) -> Sequence[int]:
        """The prompt as token ids. Raises InvalidRequestError."""
        kind = self._request.WhichOneof("prompt")
        if kind is None:
            raise InvalidRequestError("prompt", "give the prompt as text or as token_ids")
        if kind == "token_ids":
            token_ids: Sequence[int] = self._request.token_ids.ids
            self._codec.check_num_token_ids(token_ids)
        else:
            self._codec.check_text(self._request.text)
            token_ids = await self._codec.encode(self._request.text)
        if not token_ids:
            raise InvalidRequestError(kind, "the prompt is empty")
        return token_ids

    async def _engine_request(self, prompt_token_ids: Sequence[int]) -> types_pb2.Request:
        """The request without what is this service's own part: text."""
        return types_pb2.Request(
            request_id=self.request_id,
            prompt_token_ids=prompt_token_ids,
            sampling_params=await without_text(
                self._request.sampling_params, self._params, self._codec
            ),
            priority=self._request.priority,
            cache_salt=self._request.cache_salt,
        )

    def _in_callers_words(self, error: InvalidRequestError) -> InvalidRequestError:
        """The engine's complaint about its prompt, by the field in which the caller gave it."""
        if error.field != "prompt_token_ids":
            return error
        return InvalidRequestError(self._request.WhichOneof("prompt") or "prompt", str(error))


def check_fits(
    prompt_token_ids: Sequence[int], model_info: types_pb2.ModelInfo, field: str
) -> None:
    """Keeps what the engine would refuse from travelling there; it checks all the rest itself."""
    if len(prompt_token_ids) >= model_info.max_model_len:
        raise InvalidRequestError(
            field,
            f"the prompt has {len(prompt_token_ids)} tokens; with one to generate the model takes "
            f"at most {model_info.max_model_len}",
        )


async def without_text(
    message: types_pb2.SamplingParams, params: SamplingParams, codec: Codec
) -> types_pb2.SamplingParams:
    """What the engine gets of sampling parameters: bad words as ids, stop strings not at all.

    All else as it came: for what is not set the engine takes the model's defaults, not ours.
    """
    if sum(map(len, params.bad_words)) <= MAX_INLINE:
        resolved = resolve_bad_words(params, codec.tokenizer)
    else:
        resolved = await asyncio.to_thread(resolve_bad_words, params, codec.tokenizer)
    sent = types_pb2.SamplingParams()
    sent.CopyFrom(message)
    for name in ("stop", "bad_words", "bad_words_token_ids"):
        sent.ClearField(name)
    sent.bad_words_token_ids.extend(resolved.to_proto().bad_words_token_ids)
    return sent
