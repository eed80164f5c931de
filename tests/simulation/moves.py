"""Moves: what engines are sent of streams that go on there, and whether suspects are apart."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable

from folovllm.v1 import engine_service_pb2, types_pb2
from simulation.tags import Tag, tag_of_prompt

# Seconds after a death in which its suspects are sent elsewhere, if nothing else is wrong.
_SOON = 0.3


class Moves:
    """Of one run."""

    def __init__(
        self,
        counts: Counter[str],
        may_be_blamed: Callable[[Tag, float], bool],
        ambiguous: Collection[Tag],
    ) -> None:
        """`may_be_blamed` is whether a front end knew, before a time, that a step computed it.

        `ambiguous` are those of requests that are forked, whose branches have the same.
        """
        self._ambiguous = ambiguous
        self.complaints: list[str] = []
        self._counts = counts
        self._may_be_blamed = may_be_blamed
        self._suspects: dict[str, set[Tag]] = {}  # by address, those that have not begun there
        self._died: dict[Tag, float] = {}

    def taken(self, address: str, command: engine_service_pb2.SessionCommand, now: float) -> None:
        """An engine has read a command of a stream that was elsewhere."""
        request = command.generate
        continued = request.continued
        end = len(request.prompt_token_ids) - continued.num_parent_output_tokens
        tag = tag_of_prompt(request.prompt_token_ids[:end])
        died = self._died.pop(tag, None)
        if command.moved.is_suspect:
            if tag not in self._ambiguous:
                self._suspects.setdefault(address, set()).add(tag)
            self._counts["moved as suspect"] += 1
        elif tag in self._ambiguous:
            pass
        elif died is not None and now - died < _SOON and self._may_be_blamed(tag, died):
            self.complaints.append(f"{tag} moves to {address}, and is no suspect of a death")
        for name in _features(request):
            self._counts[f"moved {name}"] += 1

    def begun_anew(self, address: str, command: engine_service_pb2.SessionCommand) -> None:
        """An engine has read a command of a request that no engine had for this front end.

        Its caller may have come from another one, which had moved it here as a suspect.
        """
        tag = tag_of_prompt(command.generate.prompt_token_ids)
        self._suspects.get(address, set()).discard(tag)

    def awaits(self, address: str) -> bool:
        """Whether suspects have not begun there."""
        return bool(self._suspects.get(address))

    def begun(self, address: str, tags: Iterable[Tag]) -> None:
        """A step computes these."""
        suspects = self._suspects[address]
        together = suspects.intersection(tags)
        if len(together) > 1:
            self.complaints.append(f"{address} begins the suspects {sorted(together)} together")
        suspects -= together

    def died(self, address: str, tags: Iterable[Tag], now: float) -> None:
        """An engine was lost in a step of these."""
        self._suspects.pop(address, None)
        self._died.update(dict.fromkeys(tags, now))


def _features(request: types_pb2.Request) -> Iterable[str]:
    """What is special about a request that goes on."""
    params, continued = request.sampling_params, request.continued
    num_tokens = sum(len(output.token_ids) for output in continued.outputs)
    yield "while decoding" if num_tokens else "before any token"
    if not num_tokens:
        return
    if params.WhichOneof("structured_output") or params.HasField("reasoning"):
        yield "with grammar"
    if params.n > 1:
        yield "with n > 1"
        if len(continued.outputs) < params.n:
            yield "with some ended"
    if params.HasField("logprobs"):
        yield "with logprobs"
    if params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1:
        yield "with penalties"
    if params.bad_words_token_ids:
        yield "with bad words"
    if params.min_tokens:
        yield "with min_tokens"
    if continued.num_parent_output_tokens:
        yield "of a fork"
