"""Generate, Fork, Score and Abort: everything that callers want of an engine, as plain data.

Every rank of an engine applies the same commands in the same order; `encode_commands` and
`decode_commands` carry them from the first to the others. Compiled grammars are not part
of a command: a caller that has them passes them to `apply`, else the engine compiles its own.
"""

import json
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from engine_service.core.request import Branch, Request
from engine_service.core.token_ids import TokenIds
from engine_service.core.token_matcher import TokenMatcher
from engine_service.engine.llm_engine import LLMEngine
from engine_service.engine.score_requests import ScoreRequest
from folovllm.errors import InvalidRequestError, ServerError, errors_within
from folovllm.outputs import CompletionOutput
from folovllm.parameters.local_fields import sent_fields
from folovllm.sampling_params import SamplingParams

Matchers = Sequence[TokenMatcher | None]


@dataclass(frozen=True, slots=True)
class Generate:
    """Runs a request."""

    request: Request
    name_field: ClassVar = "request_id"

    @property
    def name(self) -> str:
        """The request_id of the outputs."""
        return self.request.request_id

    @property
    def moved(self) -> bool:
        """Whether another engine has had it."""
        return self.request.moved

    @property
    def num_outputs(self) -> int:
        """Continuations that it leads to."""
        return self.request.num_outputs

    @property
    def follows_grammar(self) -> bool:
        """Whether `make_matchers` has a grammar to compile."""
        return self.request.sampling_params.follows_grammar

    @property
    def sampling_params(self) -> Sequence[tuple[str, SamplingParams]]:
        """Those of each output that `apply` needs a matcher for, and their place in the command."""
        return (("sampling_params", self.request.sampling_params),)

    def make_matchers(self, engine: LLMEngine) -> Matchers:
        """What `apply` needs; see LLMEngine.make_matchers."""
        return engine.make_matchers(self.request)

    def apply(self, engine: LLMEngine, matchers: Matchers = ()) -> list[CompletionOutput]:
        """Tells an engine; returns what this ends at once."""
        engine.add_request(self.request, *matchers)
        return []


@dataclass(frozen=True, slots=True)
class Fork:
    """Branches sequence `index` of the running request `parent`. Otherwise, see Generate."""

    parent: str
    index: int
    name: str
    branches: tuple[Branch, ...]
    arrival_time: float
    name_field: ClassVar = "fork_id"
    moved: ClassVar = False

    @property
    def num_outputs(self) -> int:
        """One for each branch."""
        return len(self.branches)

    @property
    def follows_grammar(self) -> bool:
        """Whether any branch does."""
        return any(branch.sampling_params.follows_grammar for branch in self.branches)

    @property
    def sampling_params(self) -> Sequence[tuple[str, SamplingParams]]:
        """One for each branch."""
        return [
            (f"branches[{index}]", branch.sampling_params)
            for index, branch in enumerate(self.branches)
        ]

    def make_matchers(self, engine: LLMEngine) -> Matchers:
        """One for each branch."""
        matchers = []
        for place, params in self.sampling_params:
            with errors_within(place):
                matchers.append(engine.make_matcher(params))
        return matchers

    def apply(self, engine: LLMEngine, matchers: Matchers = ()) -> list[CompletionOutput]:
        """Raises as LLMEngine.fork_request."""
        engine.fork_request(
            self.parent,
            self.index,
            self.name,
            self.branches,
            matchers=matchers,
            arrival_time=self.arrival_time,
        )
        return []


@dataclass(frozen=True, slots=True)
class Score:
    """Scores continuations of a prompt; each leads to one output."""

    name: str
    request: ScoreRequest
    name_field: ClassVar = "request_id"
    moved: ClassVar = False
    follows_grammar: ClassVar = False
    sampling_params: ClassVar[Sequence[tuple[str, SamplingParams]]] = ()

    @property
    def num_outputs(self) -> int:
        """One for each continuation."""
        return len(self.request.continuations)

    def make_matchers(self, engine: LLMEngine) -> Matchers:
        """None is needed."""
        return ()

    def apply(self, engine: LLMEngine, matchers: Matchers = ()) -> list[CompletionOutput]:
        """See Generate."""
        engine.add_scores(self.name, self.request)
        return []


@dataclass(frozen=True, slots=True)
class Abort:
    """Ends what another command started, or only some of its outputs."""

    name: str
    indexes: tuple[int, ...] = ()

    def apply(self, engine: LLMEngine, matchers: Matchers = ()) -> list[CompletionOutput]:
        """Returns the final outputs."""
        return engine.abort_request(self.name, self.indexes)


StreamCommand = Generate | Fork | Score
Command = StreamCommand | Abort
_KINDS: dict[str, type[Command]] = {kind.__name__: kind for kind in (Generate, Fork, Score, Abort)}


def encode_commands(commands: Iterable[Command]) -> bytes:
    """JSON: the name and the fields of each."""
    named = [(type(command).__name__, command) for command in commands]
    return json.dumps(named, default=_fields, allow_nan=False, separators=(",", ":")).encode()


def decode_commands(data: bytes) -> list[Command]:
    """The commands behind `encode_commands`. Raises ServerError that says what is wrong."""
    try:
        named = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ServerError(f"commands are not JSON: {error}") from None
    pairs = _decode(tuple[tuple[str, Any], ...], named, "commands")
    return [_decode(_kind(name), value, name) for name, value in pairs]


def _kind(name: str) -> type[Command]:
    if name not in _KINDS:
        raise ServerError(f"there is no command {name}")
    return _KINDS[name]


def _fields(value: Any) -> object:
    if isinstance(value, TokenIds | array):
        return list(value)
    return {name: getattr(value, name) for name in _types(value.__class__)}


@cache
def _types(kind: type[Any]) -> dict[str, Any]:
    """The types of the fields that a dataclass is sent with."""
    hints = get_type_hints(kind, localns={"SamplingParams": SamplingParams})
    return {field.name: hints[field.name] for field in sent_fields(kind)}


def _decode(kind: Any, value: Any, path: str) -> Any:
    """What JSON made of a value of a type, as that again; `path` says where it was found."""
    arguments = get_args(kind)
    if kind is Any or type(value) is kind or (kind is float and type(value) is int):
        return value
    if get_origin(kind) is Literal and value in arguments:
        return value
    if get_origin(kind) is UnionType:
        for alternative in arguments:
            with suppress(ServerError):
                return _decode(alternative, value, path)
    elif get_origin(kind) in (tuple, Sequence) and type(value) is list:
        return _decode_items(arguments, value, path)
    elif isinstance(kind, type) and is_dataclass(kind) and type(value) is dict:
        types = _types(kind)
        if types.keys() != value.keys():
            raise ServerError(f"{path} has the fields {sorted(value)}, not {sorted(types)}")
        try:
            return kind(
                **{name: _decode(types[name], value[name], f"{path}.{name}") for name in types}
            )
        except InvalidRequestError as error:
            raise ServerError(f"{path}: {error}") from None
    raise ServerError(f"{path} is not of type {kind}: {value!r:.100}")


def _decode_items(arguments: tuple[Any, ...], values: list[Any], path: str) -> tuple[Any, ...]:
    if arguments[0] is int and set(map(type, values)) <= {int}:
        return tuple(values)  # a long prompt
    if arguments[-1] is Ellipsis or len(arguments) == 1:
        arguments = (arguments[0],) * len(values)
    if len(arguments) != len(values):
        raise ServerError(f"{path} has {len(values)} items, not {len(arguments)}")
    return tuple(
        _decode(kind, value, f"{path}[{index}]")
        for index, (kind, value) in enumerate(zip(arguments, values, strict=True))
    )
