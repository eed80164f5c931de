"""Engine: what a service needs of an engine, whether one process computes the model or several."""

from collections.abc import Iterable
from typing import Protocol

from engine_service.core.fork import Fork
from engine_service.core.request import Request
from engine_service.core.token_matcher import TokenMatcher
from engine_service.engine.llm_engine import EngineLoad
from folovllm.model_info import ModelInfo
from folovllm.outputs import CompletionOutput
from folovllm.sampling_params import SamplingParams


class Engine(Protocol):
    """LLMEngine says what each does. All but `make_matcher` belong to one thread."""

    @property
    def info(self) -> ModelInfo:
        """The model that is served."""
        ...

    @property
    def default_sampling_params(self) -> SamplingParams:
        """What applies where a request leaves a parameter out."""
        ...

    def make_matcher(self, params: SamplingParams) -> TokenMatcher | None:
        """Compiles the grammar that a request asks for, if it does."""
        ...

    def add_request(self, request: Request) -> None:
        """Takes a request."""
        ...

    def fork_request(self, fork: Fork) -> None:
        """Branches a running request."""
        ...

    def add_scores(self, name: str, requests: Iterable[Request]) -> None:
        """Takes requests that only score."""
        ...

    def abort_request(self, request_id: str, indexes: Iterable[int] = ()) -> list[CompletionOutput]:
        """Ends a request, or the named sequences of it; returns their final outputs."""
        ...

    def has_unfinished_requests(self) -> bool:
        """Whether a step would do anything."""
        ...

    def step(self) -> list[CompletionOutput]:
        """Computes one batch and returns what it brought."""
        ...

    def warm_up(self) -> None:
        """Sends one token through every part."""
        ...

    def load(self) -> EngineLoad:
        """How busy the engine is."""
        ...
