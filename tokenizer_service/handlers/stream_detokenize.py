"""StreamDetokenizeCall: one call of StreamDetokenize, ids in and text out while they arrive."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from folovllm.errors import InvalidRequestError
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import tokenizer_service_pb2 as messages
from tokenizer_service.text.codec import Codec, check_answer, off_loop
from tokenizer_service.text.stopping_detokenizer import StoppingDetokenizer
from tokenizer_service.text.tokenizer import check_token_ids


class StreamDetokenizeCall:
    """One growing sequence. Its ids must be below `vocab_size`."""

    def __init__(self, codec: Codec, vocab_size: int) -> None:
        self._codec = codec
        self._vocab_size = vocab_size
        self._params = SamplingParams()
        self._detokenizer: StoppingDetokenizer | None = None

    async def answers(
        self, requests: AsyncIterator[messages.StreamDetokenizeRequest]
    ) -> AsyncGenerator[messages.StreamDetokenizeResponse, None]:
        """One answer for each message of ids; the last one has `finished`.

        Raises InvalidRequestError naming the part of the message that is at fault.
        """
        async for request in requests:
            part = request.WhichOneof("part")
            if part is None:
                raise InvalidRequestError("part", "give options or token_ids")
            if part == "options":
                await self._set_options(request.options)
                continue
            detokenizer = self._begun()
            ids = request.token_ids.ids
            yield self._answer(detokenizer, await self._push(detokenizer, ids))
            if detokenizer.stop is not None:
                return
        detokenizer = self._begun()
        last = self._answer(detokenizer, detokenizer.flush())
        last.finished = True
        yield last

    async def _set_options(self, options: messages.DetokenizeOptions) -> None:
        if self._detokenizer is not None:
            raise InvalidRequestError("options", "options may come only as the first message")
        self._params = _params(options)
        self._codec.check_num_token_ids(options.preceding_token_ids, "options.preceding_token_ids")
        await off_loop(len(options.preceding_token_ids), self._skip, options.preceding_token_ids)

    def _skip(self, token_ids: Sequence[int]) -> None:
        check_token_ids(token_ids, self._vocab_size, "options.preceding_token_ids")
        self._begun().skip(token_ids)

    def _begun(self) -> StoppingDetokenizer:
        """The detokenizer; from its first use on options come too late."""
        if self._detokenizer is None:
            self._detokenizer = StoppingDetokenizer(self._codec.tokenizer, self._params)
        return self._detokenizer

    async def _push(self, detokenizer: StoppingDetokenizer, token_ids: Sequence[int]) -> str:
        self._codec.check_num_token_ids(token_ids)
        # Each stop string is another pass over the text.
        size = len(token_ids) * (1 + len(self._params.stop))
        return await off_loop(size, self._checked_push, detokenizer, token_ids)

    def _checked_push(self, detokenizer: StoppingDetokenizer, token_ids: Sequence[int]) -> str:
        check_token_ids(token_ids, self._vocab_size)
        return detokenizer.push(token_ids)

    def _answer(
        self, detokenizer: StoppingDetokenizer, text: str
    ) -> messages.StreamDetokenizeResponse:
        answer = messages.StreamDetokenizeResponse(
            text=text,
            num_token_ids=detokenizer.num_tokens,
            stop_string=detokenizer.stop,
            finished=detokenizer.stop is not None,
        )
        check_answer(answer, "token_ids")
        return answer


def _params(options: messages.DetokenizeOptions) -> SamplingParams:
    """The options as the parameters that they are elsewhere. Raises InvalidRequestError."""
    try:
        return SamplingParams(
            stop=tuple(options.stop),
            include_stop_str_in_output=options.include_stop_str_in_output,
            min_tokens=options.min_tokens,
            max_tokens=None,
            skip_special_tokens=(
                options.skip_special_tokens if options.HasField("skip_special_tokens") else True
            ),
        )
    except InvalidRequestError as error:
        raise error.within("options") from None
