# Generated from async_tokenizing.py by `make client-sync`; do not edit.
"""TokenizingCalls: text, token ids and the tokenizer itself, from ordinary code."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import grpc

from folovllm.errors import ClientClosedError, FolovError, InvalidRequestError
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2
from folovllm_client.api.calls.call_errors import is_unknown_method, to_error, wrong_service
from folovllm_client.api.calls.running_calls import RunningCalls
from folovllm_client.api.calls.sync_calls import (
    DuplexCall,
    Pieces,
    StreamMethod,
    UnaryMethod,
    call_once,
    iterate,
    means_closed,
)
from folovllm_client.api.requests import field_errors
from folovllm_client.api.text_delta import TextDelta
from folovllm_client.api.tokenizer_download import TokenizerDownload

if TYPE_CHECKING:
    from folovllm.v1.engine_service_pb2_grpc import EngineServiceStub
    from folovllm.v1.tokenizer_service_pb2_grpc import TokenizerServiceStub

_Output = TypeVar("_Output")
_Texts = list[str] | tuple[str, ...]
_PROBE_TIMEOUT = 5.0


class TokenizingCalls:
    """The part of Client that needs no engine; Client sets the attributes."""

    address: str
    _stub: "TokenizerServiceStub"
    _engine: "EngineServiceStub"
    _timeout: float | None
    _calls: RunningCalls

    @overload
    def tokenize(self, text: str, add_special_tokens: bool = True) -> list[int]: ...
    @overload
    def tokenize(self, text: _Texts, add_special_tokens: bool = True) -> list[list[int]]: ...
    def tokenize(
        self, text: str | _Texts, add_special_tokens: bool = True
    ) -> list[int] | list[list[int]]:
        """The token ids of a text, or of each text of a list."""
        with field_errors("texts"):
            request = messages.TokenizeRequest(
                texts=[text] if isinstance(text, str) else text,
                add_special_tokens=add_special_tokens,
            )
        response = self._call(self._stub.Tokenize, request)
        token_ids = [list(encoding.token_ids) for encoding in response.encodings]
        return token_ids[0] if isinstance(text, str) else token_ids

    @overload
    def detokenize(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str: ...
    @overload
    def detokenize(
        self, ids: Iterable[Iterable[int]], skip_special_tokens: bool = True
    ) -> list[str]: ...
    def detokenize(
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
        response = self._call(self._stub.Detokenize, request)
        return response.texts[0] if single else list(response.texts)

    def stream_detokenize(
        self,
        pieces: Pieces,
        sampling_params: SamplingParams | None = None,
        *,
        preceding_token_ids: Iterable[int] = (),
        timeout: float | None = None,
    ) -> Generator[TextDelta, None, None]:
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
        with self._errors(deadline):
            call = DuplexCall(self._stub.StreamDetokenize, deadline)
            with self._calls.running(call):
                call.send(messages.StreamDetokenizeRequest(options=options))
                for ids in iterate(pieces):
                    with field_errors("token_ids"):
                        token_ids = types_pb2.TokenIds(ids=ids)
                    call.send(messages.StreamDetokenizeRequest(token_ids=token_ids))
                    delta = TextDelta.from_answer(call.read())
                    yield delta
                    if delta.finished:
                        return
                call.finish()
                yield TextDelta.from_answer(call.read())

    def count_tokens(self, text: str) -> int:
        """How many tokens a text has, with the special tokens that the model adds."""
        with field_errors("text"):
            request = messages.CountTokensRequest(text=text)
        return (self._call(self._stub.CountTokens, request)).num_tokens

    def save_tokenizer(self, folder: str | Path) -> list[Path]:
        """Writes the tokenizer's files to a folder, for transformers or tokenizers to load.

        Each is verified, and they appear together. Returns their paths. Raises OSError if the
        folder cannot be written.
        """
        request, deadline = messages.GetTokenizerRequest(), self._deadline()
        with TokenizerDownload(folder) as files:
            with self._errors(deadline):
                call = self._stub.GetTokenizer(request, timeout=deadline)
                with self._calls.running(call):
                    for chunk in call:
                        files.add(chunk)
            return files.keep()

    def _call(
        self, method: "UnaryMethod[_Output]", request: object, timeout: float | None = None
    ) -> _Output:
        """The answer of a call that has one."""
        deadline = self._deadline(timeout)
        with self._errors(deadline):
            return call_once(method, request, deadline, self._calls)

    def _stream(
        self,
        method: StreamMethod,
        request: object,
        timeout: float | None,
        read: Callable[[Any], _Output | None],
        calls: RunningCalls | None = None,
    ) -> Generator[_Output, None, None]:
        """The answers of a call, which begins when the first is requested; one of `calls`.

        `read` returns None for a message that is a part of the next answer.
        """
        deadline = self._deadline(timeout)
        with self._errors(deadline):
            call = method(request, timeout=deadline)
            with (calls or self._calls).running(call):
                for message in call:
                    if (output := read(message)) is not None:
                        yield output

    @contextmanager
    def _errors(self, deadline: float | None) -> Iterator[None]:
        """Turns what a call raises into an error of `folovllm.errors`, without gRPC's behind it."""
        try:
            yield
        except FolovError:
            raise
        except BaseException as error:
            if self._calls.cancelled and means_closed(error):
                raise ClientClosedError("the client is closed; open another") from None
            if is_unknown_method(error) and (other := self._other_service()):
                raise other from None
            if isinstance(error, grpc.RpcError):
                raise to_error(error, self.address, deadline) from None
            raise

    def _other_service(self) -> FolovError | None:
        """What answers where the tokenizer service should; None if it does, in another version."""
        if self._has(self._engine.GetModelInfo):
            return wrong_service(self.address, is_engine=True)
        if self._has(self._stub.GetModelInfo):
            return None
        return wrong_service(self.address, is_engine=False)

    def _has(self, method: "UnaryMethod[types_pb2.ModelInfo]") -> bool:
        """Whether the server has a method, however it answers."""
        try:
            call_once(method, types_pb2.GetModelInfoRequest(), _PROBE_TIMEOUT, self._calls)
        except grpc.RpcError as error:
            return not is_unknown_method(error)
        return True

    def _deadline(self, timeout: float | None = None) -> float | None:
        """The seconds that a call has. Raises InvalidRequestError for what are none."""
        deadline = self._timeout if timeout is None else timeout
        if deadline is not None and not (isinstance(deadline, int | float) and deadline > 0):
            raise InvalidRequestError(
                "timeout", f"timeout must be a number of seconds over 0, got {deadline!r}"
            )
        return deadline
