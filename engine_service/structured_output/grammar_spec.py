"""GrammarSpec: what a request asks for, as plain data that another process can be sent."""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple


class ReasoningSpan(NamedTuple):
    """The ids around reasoning, and how many may lie between; see folovllm.parameters.Reasoning."""

    end_token_id: int
    start_token_id: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class GrammarSpec:
    """A grammar for the whole output, or for what comes after its reasoning.

    `kind` is that of a StructuredOutput and `value` its value; both are None if only the reasoning
    is bound.
    """

    kind: str | None
    value: str | tuple[str, ...] | bool | None
    reasoning: ReasoningSpan | None = None

    @property
    def name(self) -> str:
        """The parameter that errors name."""
        return self.kind or "reasoning"

    @property
    def is_ours(self) -> bool:
        """Whether no part of it was written by a caller, so that what it costs is known."""
        return self.kind in (None, "json_object")

    @property
    def is_prefix(self) -> bool:
        """Whether it binds only the beginning of an output."""
        return self.kind is None

    def encode(self) -> str:
        """One line of JSON."""
        return json.dumps([self.kind, self.value, self.reasoning])

    @classmethod
    def decode(cls, line: str) -> "GrammarSpec":
        """What `encode` was given."""
        fields: tuple[Any, Any, Any] = tuple(json.loads(line))
        kind, value, reasoning = fields
        if isinstance(value, list):
            value = tuple(value)
        return cls(kind, value, None if reasoning is None else ReasoningSpan(*reasoning))
