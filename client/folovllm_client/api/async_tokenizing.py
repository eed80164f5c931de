"""AsyncTokenizingCalls: text, token ids and the tokenizer itself, from asyncio."""

from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import overload

from folovllm.sampling_params import SamplingParams
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2
from folovllm_client.api.calls.async_calling import AsyncCalling
from folovllm_client.api.calls.async_calls import DuplexCall, Pieces, iterate
from folovllm_client.api.requests import field_errors
from folovllm_client.api.text_delta import TextDelta
from folovllm_client.api.tokenizer_download import TokenizerDownload

_Texts = list[str] | tuple[str, ...]


class AsyncTokenizingCalls(AsyncCalling):
    """The part of AsyncClient that needs no engine."""

    @overload
    async def tokenize(self, text: str, add_special_tokens: bool = True) -> list[int]: ...
    @overload
    async def tokenize(self, text: _Texts, add_special_tokens: bool = True) -> list[list[int]]: ...
    async def tokenize(
        self, text: str | _Texts, add_special_tokens: bool = True
    ) -> list[int] | list[list[int]]:
        """The token ids of a text, or of each text of a list."""
        with field_errors("texts"):
            request = messages.TokenizeRequest(
                texts=[text] if isinstance(text, str) else text,
                add_special_tokens=add_special_tokens,
            )
        response = await self._call(self._stub.Tokenize, request)
        token_ids = [list(encoding.token_ids) for encoding in response.encodings]
        return token_ids[0] if isinstance(text, str) else token_ids

    @overload
    async def detokenize(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str: ...
    @overload
    async def detokenize(
        self, ids: Iterable[Iterable[int]], skip_special_tokens: bool = True
    ) -> list[str]: ...
    async def detokenize(
        self, ids: Iterable[int] | Iterable[Iterable[int]], skip_special_tokens: bool = True
    ) -> str | list[str]:
        """The text of token ids, or of each sequence of several.

        Invalid UTF-8 becomes U+FFFD.
        """
        request = messages.DetokenizeRequest(skip_special_tokens=skip_special_tokens)
        given = list(ids)
        single = not (given and isinstance(given[0], Iterable))
        for index, sequence in enumerate([given] if single else given):
            with field_errors(f"sequences[{index}]"):
                request.sequences.add(ids=sequence)
        response = await self._call(self._stub.Detokenize, request)
        return response.texts[0] if single else list(response.texts)

    async def stream_detokenize(
        self,
        pieces: Pieces,
        sampling_params: SamplingParams | None = None,
        *,
        preceding_token_ids: Iterable[int] = (),
        timeout: float | None = None,
    ) -> AsyncGenerator[TextDelta, None]:
        """Detokenizes pieces as from an engine: a delta for each, and one at the end.

        Of `sampling_params` only stop, include_stop_str_in_output, min_tokens and
        skip_special_tokens apply. After a stop string no more pieces are read. The text of
        `preceding_token_ids` is not repeated.
        """
        params = sampling_params or SamplingParams()
        with field_errors("options"):
            options = messages.DetokenizeOptions(
                skip_special_tokens=params.skip_special_tokens,
                stop=params.stop,
                include_stop_str_in_output=params.include_stop_str_in_output,
                min_tokens=params.min_tokens,
                preceding_token_ids=preceding_token_ids,
            )
        deadline = self._deadline(timeout)
        async with self._errors(deadline):
            call = DuplexCall(self._stub.StreamDetokenize, deadline)
            with self._calls.running(call):
                await call.send(messages.StreamDetokenizeRequest(options=options))
                async for ids in iterate(pieces):
                    with field_errors("token_ids"):
                        token_ids = types_pb2.TokenIds(ids=ids)
                    await call.send(messages.StreamDetokenizeRequest(token_ids=token_ids))
                    delta = TextDelta.from_answer(await call.read())
                    yield delta
                    if delta.finished:
                        return
                await call.finish()
                yield TextDelta.from_answer(await call.read())

    async def count_tokens(self, text: str) -> int:
        """How many tokens a text has, with the special tokens that the model adds."""
        with field_errors("text"):
            request = messages.CountTokensRequest(text=text)
        return (await self._call(self._stub.CountTokens, request)).num_tokens

    async def save_tokenizer(self, folder: str | Path) -> list[Path]:
        """Writes the tokenizer's files to a folder, for transformers or tokenizers to load.

        Each is verified, and they appear together. Returns their paths. Raises OSError if the
        folder cannot be written.
        """
        request, deadline = messages.GetTokenizerRequest(), self._deadline()
        with TokenizerDownload(folder) as files:
            async with self._errors(deadline):
                call = self._stub.GetTokenizer(request, timeout=deadline)
                with self._calls.running(call):
                    async for chunk in call:
                        files.add(chunk)
            return files.keep()
