"""AnswerConstraints: what a Chat requires of its answer, and the parameters that enforce it.

The engine knows only grammars and token ids. So a required tool call becomes a Lark grammar over
the markers' ids and the tools' schemas, and reasoning, which is not constrained, becomes the ids
that begin and end it.
"""

import json
from dataclasses import dataclass
from typing import Literal

from folovllm.chat import Tool
from folovllm.errors import InvalidRequestError, UnsupportedError
from folovllm.v1 import tokenizer_service_pb2 as wire
from folovllm.v1 import types_pb2
from tokenizer_service.chat.markers import ChatMarkers, ThinkingState

ToolChoice = Literal["auto", "none", "required", "name"]
_ANY_OBJECT = '{"type": "object"}'


@dataclass(frozen=True, slots=True)
class AnswerConstraints:
    """What the answer must be. Raises InvalidRequestError if the requirements are contradictory.

    `tool_choice` is the kind of choice, `tool_name` the tool's name if that is "name".
    `json_schema` is the schema of the answer's content; None for any text.
    """

    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    tool_name: str = ""
    json_schema: str | None = None
    thinking_budget: int | None = None

    def __post_init__(self) -> None:
        if self.tool_choice in ("required", "name") and not self.tools:
            raise InvalidRequestError("tool_choice", "a tool is required, but none is listed")
        if self.tool_choice == "name" and self.tool_name not in {t.name for t in self.tools}:
            raise InvalidRequestError(
                "tool_choice.name", f"{self.tool_name!r} is none of the listed tools"
            )
        if self.must_call and self.json_schema is not None:
            raise InvalidRequestError(
                "response_format", "an answer that must be a tool call has no format of its own"
            )

    @classmethod
    def from_proto(cls, request: wire.ChatRequest, tools: tuple[Tool, ...]) -> "AnswerConstraints":
        """Reads a request whose tools were read already."""
        sampling = request.sampling_params.WhichOneof("structured_output")
        schema = _schema(request.response_format)
        constraints = cls(
            tools,
            _tool_choice(request.tool_choice),
            request.tool_choice.name,
            schema,
            request.thinking_budget if request.HasField("thinking_budget") else None,
        )
        if sampling is not None and (schema is not None or constraints.must_call):
            other = "response_format" if schema is not None else "tool_choice"
            raise InvalidRequestError(
                f"sampling_params.{sampling}", f"{sampling} and {other} cannot both hold"
            )
        if request.sampling_params.HasField("reasoning"):
            raise InvalidRequestError(
                "sampling_params.reasoning", "a chat's reasoning is known from its template"
            )
        return constraints

    @property
    def must_call(self) -> bool:
        """Whether the answer must be tool calls."""
        return self.tool_choice in ("required", "name")

    @property
    def may_call(self) -> bool:
        """Whether tool calls are distinguished from content."""
        return bool(self.tools) and self.tool_choice != "none"

    def constrain(
        self, params: types_pb2.SamplingParams, tokens: ChatMarkers, thinking: ThinkingState
    ) -> None:
        """Adds the constraints to the parameters for the engine.

        Raises UnsupportedError if the model's tokenizer lacks the markers that they need.
        """
        if self.must_call and not tokens.has_tool_calls:
            raise UnsupportedError("the model's tokenizer has no tokens for tool calls")
        may_call = self.may_call and tokens.has_tool_calls
        if self.must_call:
            params.grammar = "\n".join(["start: calls", *self._call_rules(tokens)])
        elif self.json_schema is not None and may_call:
            answer = f"answer: %json {self.json_schema}"
            params.grammar = "\n".join(["start: calls | answer", answer, *self._call_rules(tokens)])
        elif self.json_schema is not None:
            params.json_schema = self.json_schema
        elif self.tools and not self.may_call and tokens.tool_call_start is not None:
            params.bad_words_token_ids.add(ids=[tokens.tool_call_start])
        self._bound_reasoning(params, tokens, thinking)

    @property
    def engine_fields(self) -> dict[str, str]:
        """The caller's field behind each parameter that `constrain` may set."""
        fields = {}
        if self.may_call:
            fields["sampling_params.grammar"] = "tools"
        if self.json_schema is not None:
            fields["sampling_params.json_schema"] = "response_format.json_schema"
        return fields

    def _call_rules(self, tokens: ChatMarkers) -> list[str]:
        """Lark rules of `calls`: one call of the named tool, or one or more of any."""
        named = self.tool_choice == "name"
        tools = [tool for tool in self.tools if not named or tool.name == self.tool_name]
        opening, closing = f"<[{tokens.tool_call_start}]>", f"<[{tokens.tool_call_end}]>"
        rules = [
            "calls: call" if named else 'calls: call ("\\n" call)*',
            f'call: {opening} "\\n" body "\\n" {closing}',
            "body: " + " | ".join(f"body_{index}" for index in range(len(tools))),
        ]
        for index, tool in enumerate(tools):
            head = f'{{"name": {json.dumps(tool.name)}, "arguments": '
            rules.append(f'body_{index}: {json.dumps(head)} arguments_{index} "}}"')
            rules.append(f"arguments_{index}: %json {json.dumps(tool.schema())}")
        return rules

    def _bound_reasoning(
        self, params: types_pb2.SamplingParams, tokens: ChatMarkers, thinking: ThinkingState
    ) -> None:
        """Tells the engine where reasoning is, if anything depends on that."""
        is_free = self.thinking_budget is None and params.WhichOneof("structured_output") is None
        if is_free or thinking is ThinkingState.OVER or tokens.think_end is None:
            return
        params.reasoning.end_token_id = tokens.think_end
        if thinking is ThinkingState.MAY_BEGIN and tokens.think_start is not None:
            params.reasoning.start_token_id = tokens.think_start
        if self.thinking_budget is not None:
            params.reasoning.max_tokens = self.thinking_budget


_MODES: dict[wire.ToolChoice.Mode.ValueType, ToolChoice] = {
    wire.ToolChoice.MODE_UNSPECIFIED: "auto",
    wire.ToolChoice.MODE_AUTO: "auto",
    wire.ToolChoice.MODE_NONE: "none",
    wire.ToolChoice.MODE_REQUIRED: "required",
}


def _tool_choice(choice: wire.ToolChoice) -> ToolChoice:
    if choice.WhichOneof("choice") == "name":
        return "name"
    if choice.mode not in _MODES:
        raise InvalidRequestError(
            "tool_choice.mode",
            f"{choice.mode} is no mode; give {', '.join(wire.ToolChoice.Mode.keys()[1:])}",
        )
    return _MODES[choice.mode]


def _schema(response_format: wire.ResponseFormat) -> str | None:
    kind = response_format.WhichOneof("format")
    if kind == "json_object":
        return _ANY_OBJECT
    if kind != "json_schema":
        return None
    schema = response_format.json_schema
    try:
        json.loads(schema)
    except (ValueError, RecursionError):
        raise InvalidRequestError(
            "response_format.json_schema", "json_schema is not JSON"
        ) from None
    return schema
