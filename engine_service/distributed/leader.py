"""One engine on several ranks: the first is asked and answers, the others do what it does.

What an engine does follows from the calls it gets, in their order, and from nothing else: no clock,
no chance. So the ranks need not exchange what their schedulers decide. Before each step the first
one tells the others which calls it had since the last, and then all take the step, each with its
part of the model; what they draw comes from the same logits. `follow` is the others' whole life.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from engine_service.core.fork import Fork
from engine_service.core.request import Request
from engine_service.core.token_matcher import TokenMatcher
from engine_service.distributed.broadcast import CommandChannel
from engine_service.engine.llm_engine import EngineLoad, LLMEngine
from folovllm.errors import ServerError
from folovllm.model_info import ModelInfo
from folovllm.outputs import CompletionOutput
from folovllm.sampling_params import SamplingParams


class EngineLeader:
    """The Engine of the first rank. All ranks warm up first, and then wait for its steps."""

    def __init__(self, engine: LLMEngine, channel: CommandChannel) -> None:
        self._engine = engine
        self._channel = channel
        self._calls: list[_Call] = []
        self._digest = 0

    @property
    def info(self) -> ModelInfo:
        """See Engine."""
        return self._engine.info

    @property
    def default_sampling_params(self) -> SamplingParams:
        """See Engine."""
        return self._engine.default_sampling_params

    def make_matcher(self, params: SamplingParams) -> TokenMatcher | None:
        """See Engine. The other ranks compile what this one could."""
        return self._engine.make_matcher(params)

    def add_request(self, request: Request) -> None:
        """See Engine."""
        self._engine.add_request(request)
        self._calls.append(_Add(_Asked.of(request)))

    def fork_request(self, fork: Fork) -> None:
        """See Engine. Of a fork that is refused the other ranks are not told."""
        self._engine.fork_request(fork)
        branches = tuple(replace(branch, matcher=None) for branch in fork.branches)
        self._calls.append(_Fork(replace(fork, branches=branches)))

    def add_scores(self, name: str, requests: Iterable[Request]) -> None:
        """See Engine."""
        requests = list(requests)
        self._engine.add_scores(name, requests)
        self._calls.append(_Score(name, tuple(map(_Asked.of, requests))))

    def abort_request(self, request_id: str, indexes: Iterable[int] = ()) -> list[CompletionOutput]:
        """See Engine."""
        indexes = tuple(indexes)
        self._calls.append(_Abort(request_id, indexes))
        return self._engine.abort_request(request_id, indexes)

    def has_unfinished_requests(self) -> bool:
        """See Engine."""
        return self._engine.has_unfinished_requests()

    def step(self) -> list[CompletionOutput]:
        """See Engine. Raises EngineDeadError where another rank has ended."""
        self._channel.send(_Turn(tuple(self._calls), self._digest))
        self._calls.clear()
        outputs = self._engine.step()
        self._digest = _digest(outputs)
        return outputs

    def warm_up(self) -> None:
        """See Engine."""
        self._engine.warm_up()

    def load(self) -> EngineLoad:
        """See Engine."""
        return self._engine.load()

    def stop(self) -> None:
        """Ends `follow` on the other ranks. Raises EngineDeadError where one has ended already."""
        self._channel.send(None)


def follow(engine: LLMEngine, channel: CommandChannel) -> None:
    """Warms up, and does what the first rank's engine does until that is stopped.

    Raises EngineDeadError where the first rank ends otherwise, and ServerError where this rank's
    tokens are not the first one's.
    """
    engine.warm_up()
    digest = 0
    while (turn := channel.receive()) is not None:
        if turn.digest != digest:
            raise ServerError("this rank has drawn other tokens than the first one")
        for call in turn.calls:
            call.apply(engine)
        digest = _digest(engine.step())


class _Call(Protocol):
    """What the engine of the first rank was asked, to be repeated by the others'."""

    def apply(self, engine: LLMEngine) -> object:
        """Asks another rank's engine the same."""
        ...


@dataclass(frozen=True, slots=True)
class _Turn:
    """The calls before a step, and the step."""

    calls: Sequence[_Call]
    digest: int
    """Of what the step before it brought."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A Request as it was made, without what only one process can hold."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling_params: SamplingParams
    seed: int
    priority: int
    cache_salt: str
    scored_from: int | None

    @classmethod
    def of(cls, request: Request) -> "_Asked":
        return cls(
            request.request_id,
            request.prompt_token_ids,
            request.sampling_params,
            request.seed,
            request.priority,
            request.cache_salt,
            request.scored_from,
        )

    def request(self, engine: LLMEngine) -> Request:
        return Request(
            self.request_id,
            self.prompt_token_ids,
            self.sampling_params,
            seed=self.seed,
            priority=self.priority,
            cache_salt=self.cache_salt,
            matcher=engine.make_matcher(self.sampling_params),
            scored_from=self.scored_from,
        )


@dataclass(frozen=True, slots=True)
class _Add:
    asked: _Asked

    def apply(self, engine: LLMEngine) -> None:
        engine.add_request(self.asked.request(engine))


@dataclass(frozen=True, slots=True)
class _Fork:
    fork: Fork

    def apply(self, engine: LLMEngine) -> None:
        branches = tuple(
            replace(branch, matcher=engine.make_matcher(branch.sampling_params))
            for branch in self.fork.branches
        )
        engine.fork_request(replace(self.fork, branches=branches))


@dataclass(frozen=True, slots=True)
class _Score:
    name: str
    asked: tuple[_Asked, ...]

    def apply(self, engine: LLMEngine) -> None:
        engine.add_scores(self.name, [asked.request(engine) for asked in self.asked])


@dataclass(frozen=True, slots=True)
class _Abort:
    request_id: str
    indexes: tuple[int, ...]

    def apply(self, engine: LLMEngine) -> None:
        engine.abort_request(self.request_id, self.indexes)


def _digest(outputs: Sequence[CompletionOutput]) -> int:
    """A number that differs where indexes or tokens do; the same in all processes."""
    return hash(tuple((output.index, *output.token_ids) for output in outputs))
