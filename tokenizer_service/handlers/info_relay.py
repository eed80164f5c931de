"""InfoRelay: the RequestInfo of a stream on its way from the engine to the caller.

It stays a message, since it may hold a prompt's log-probabilities, which take long to convert. A
long one comes in several, all but the first of which only have more of its lists.
"""

from collections.abc import Iterator, Sequence

from folovllm.sampling_params import SamplingParams
from folovllm.serving.turns import MAX_IDS
from folovllm.v1 import tokenizer_service_pb2, types_pb2


class InfoRelay:
    """The info of one continuation, with the parameters that the engine never saw."""

    def __init__(
        self,
        params: SamplingParams,
        prompt_token_ids: Sequence[int] = (),
        prompt_fingerprint: str = "",
        *,
        was_received: bool = False,
    ) -> None:
        """`prompt_token_ids` and `prompt_fingerprint` are added to it.

        If it `was_received` before, nothing is sent.
        """
        self._params = params
        self._prompt_token_ids = prompt_token_ids
        self._prompt_fingerprint = prompt_fingerprint
        self._was_received = was_received
        self._pending: types_pb2.RequestInfo | None = None

    @property
    def has_pending(self) -> bool:
        """Whether `attach` would add anything."""
        return self._pending is not None

    def take(self, output: types_pb2.CompletionOutput) -> Iterator[types_pb2.RequestInfo]:
        """Takes the info out of an output, which has one; what is yielded is sent by itself.

        A short one is not: `attach` adds it to the next reply.
        """
        if self._was_received:
            output.ClearField("info")
            return
        info = types_pb2.RequestInfo()
        info.CopyFrom(output.info)
        output.ClearField("info")
        token_ids: Sequence[int] = ()
        if info.HasField("sampling_params"):
            info.sampling_params.stop.extend(self._params.stop)
            info.sampling_params.bad_words.extend(self._params.bad_words)
            info.prompt_fingerprint = self._prompt_fingerprint
            token_ids = self._prompt_token_ids
        if has_more(output) and len(token_ids) <= MAX_IDS:
            info.prompt_token_ids.extend(token_ids)
            self._pending = info
            return
        yield info
        for start in range(0, len(token_ids), MAX_IDS):
            yield types_pb2.RequestInfo(prompt_token_ids=token_ids[start : start + MAX_IDS])

    def attach(self, reply: types_pb2.CompletionOutput | tokenizer_service_pb2.ChatOutput) -> None:
        """Adds a short info to the first reply."""
        if self._pending is not None:
            reply.info.CopyFrom(self.release())

    def release(self) -> types_pb2.RequestInfo:
        """A short info, to send it by itself: before the first reply of any other index."""
        assert self._pending is not None
        info, self._pending = self._pending, None
        return info


def has_more(output: types_pb2.CompletionOutput) -> bool:
    """Whether an output has more than its info."""
    return bool(output.token_ids or output.finish_reason)
