"""Progress: what engines have sent of a request, so that another one can go on from there.

It counts what was sent, read or not, and takes four bytes for a token id.
"""

from array import array
from collections.abc import Iterable, MutableSequence
from typing import Any

from folovllm.v1 import types_pb2

_PROMPT_LOGPROBS, _PARENT_TOKEN_IDS = "prompt_logprobs", "parent_output_token_ids"
# Lists of a RequestInfo, which may come in several messages.
_LISTS = (_PROMPT_LOGPROBS, _PARENT_TOKEN_IDS)


class Progress:
    """One continuation."""

    __slots__ = ("aborted", "final", "has_logprobs", "is_over", "logprobs", "token_ids")

    def __init__(
        self,
        token_ids: Iterable[int] = (),
        logprobs: Iterable[float] = (),
        *,
        has_logprobs: bool = False,
        is_over: bool = False,
    ) -> None:
        """It begins with what came of it before, if anything."""
        self.has_logprobs = has_logprobs
        """Whether they are asked for."""
        self.token_ids = array("I", token_ids)
        self.logprobs = array("f", logprobs)
        """Of each of token_ids, if they are asked for."""
        self.aborted = False
        """Whether its reader wants no more of it than the final output."""
        self.is_over = is_over
        """Whether nothing more comes."""
        self.final: types_pb2.CompletionOutput | None = None
        """The last output, if it has come."""

    def add(self, output: types_pb2.CompletionOutput) -> None:
        """Counts an output."""
        self.token_ids.fromlist(output.token_ids[:])  # it takes long to ask for them twice
        if self.has_logprobs:
            self.logprobs.extend(position.token.logprob for position in output.logprobs)
        if output.finish_reason:
            self.is_over = True
            self.final = types_pb2.CompletionOutput()
            self.final.CopyFrom(output)


class ReceivedInfo:
    """The RequestInfo of a request, or of a fork's branch, as far as it has come."""

    def __init__(self, parent_token_ids: "array[int] | None" = None) -> None:
        """`parent_token_ids` gets those of a branch, which all branches of a fork share."""
        self.info: types_pb2.RequestInfo | None = None
        """What is said once, without the lists; None if nothing has come."""
        self._parent_token_ids = array("I") if parent_token_ids is None else parent_token_ids
        # Elements of each list that were passed on, and that the present engine has sent.
        self._num_received = dict.fromkeys(_LISTS, 0)
        self._num_seen = dict.fromkeys(_LISTS, 0)

    def begin_again(self) -> None:
        """Another engine is asked, which sends it from the beginning or not at all."""
        self._num_seen = dict.fromkeys(_LISTS, 0)

    def take(self, info: types_pb2.RequestInfo) -> None:
        """Counts what comes, and removes what had come before from another engine."""
        if self.info is None:
            self.info = types_pb2.RequestInfo()
            self.info.CopyFrom(info)
            self.info.ClearField("prompt_logprobs")
            self.info.ClearField("parent_output_token_ids")
        else:
            lists = types_pb2.RequestInfo(
                prompt_logprobs=info.prompt_logprobs,
                parent_output_token_ids=info.parent_output_token_ids,
            )
            info.CopyFrom(lists)
        parent_token_ids = info.parent_output_token_ids
        num_ahead = len(self._parent_token_ids) - self._num_seen[_PARENT_TOKEN_IDS]
        self._parent_token_ids.extend(parent_token_ids[max(0, num_ahead) :])
        self._skip_known(_PARENT_TOKEN_IDS, parent_token_ids)
        self._skip_known(_PROMPT_LOGPROBS, info.prompt_logprobs)

    def _skip_known(self, name: str, elements: MutableSequence[Any]) -> None:
        """Removes the elements of a list that were received before."""
        num_known = min(len(elements), self._num_received[name] - self._num_seen[name])
        self._num_seen[name] += len(elements)
        self._num_received[name] = max(self._num_received[name], self._num_seen[name])
        del elements[: max(0, num_known)]
