"""StructuredOutput and Reasoning in the form that llguidance compiles."""

import json
import re
from collections.abc import Sequence
from decimal import Decimal

from llguidance import LLMatcher

from engine_service.structured_output.reasoning_grammar import reasoning_alone, reasoning_before
from folovllm.errors import InvalidRequestError
from folovllm.parameters.reasoning import Reasoning
from folovllm.parameters.structured_output import StructuredOutput

# JSON allows unlimited whitespace between two tokens, and a model may never stop producing it. This
# much indents ten levels by four.
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,40}"

_MULTIPLE_OF = re.compile(r'"multipleOf"\s*:\s*([-+.0-9eE]+)')
# The library makes an automaton of as many states as the number has units, with no limit of its
# own: 10,000 take 0.1 s, a million minutes.
_MAX_MULTIPLES = 50_000

# llguidance 1.9 lets [^"] match a quote and [^\\] a backslash in the patterns of JSON strings,
# so the output would not validate.
_EXCLUDES_ESCAPED = re.compile(r'\[\^(?:[^\]\\]|\\.)*?(?:"|\\\\)')

# The start of a schema in Lark, and what else may contain these letters: strings, comments, regular
# expressions and special tokens. One that is not closed reaches the end, which keeps this linear.
_EMBEDS_SCHEMA = re.compile(
    r'(?P<schema>%json[ \t\r\n]*)|"(?:[^"\\]|\\.)*+"?|(?:#|//)[^\n]*'
    r"|/(?:[^/\\]|\\.)++/?|<[^<>\s]+>",
    re.DOTALL,
)

# One of the grammars of a source: Lark text or a schema, under the library's name for its kind.
_Grammar = dict[str, object]


def grammar_source(
    output: StructuredOutput | None, reasoning: Reasoning | None, eos_token_ids: Sequence[int]
) -> str:
    """The library's source of a grammar, which may still turn out to be invalid.

    It covers the whole output, reasoning and the answer after it, or reasoning alone; one of the
    two is given. Raises InvalidRequestError for a fault that shows already.
    """
    grammars = [] if output is None else [_grammar(output)]
    if reasoning is not None and output is not None:
        grammars[0]["name"] = "answer"
        grammars.insert(0, _lark(reasoning_before("answer", reasoning, eos_token_ids)))
    elif reasoning is not None:
        grammars.append(_lark(reasoning_alone(reasoning, eos_token_ids)))
    return json.dumps({"grammars": grammars})


def kind_of(output: StructuredOutput | None) -> str:
    """The parameter that errors name; reasoning, if there is no structured output."""
    return "reasoning" if output is None else output.kind


def refusal(kind: str, message: str) -> InvalidRequestError:
    """The error for a grammar that cannot be served: one line, without the grammar itself."""
    line = " ".join(message.replace("<non-verbose/>", "").split())
    return InvalidRequestError(f"sampling_params.{kind}", f"{kind}: {line[:400]}")


def _grammar(output: StructuredOutput) -> _Grammar:
    value = output.value
    if isinstance(value, tuple):
        return _lark(f"start: CHOICE\nCHOICE: {' | '.join(json.dumps(text) for text in value)}")
    if isinstance(value, bool):
        return {"json_schema": _schema(output.kind, '{"type": "object"}')}
    if output.kind == "regex":
        return _lark(_only(LLMatcher.grammar_from_regex(value))["lark_grammar"])
    _check_multiples(output.kind, value)
    if output.kind == "json_schema":
        return {"json_schema": _schema(output.kind, value)}
    return _lark(_with_bounded_schemas(output.kind, value))


def _lark(text: object) -> _Grammar:
    return {"lark_grammar": text}


def _schema(kind: str, text: str) -> object:
    """A schema that the library supports, with bounded whitespace unless it sets its own."""
    _check_patterns(kind, text)
    try:
        source = LLMatcher.grammar_from_json_schema(
            text, defaults={"whitespace_pattern": _WHITESPACE}
        )
    except ValueError as error:
        raise refusal(kind, str(error)) from None
    return _only(source)["json_schema"]


def _only(source: str) -> _Grammar:
    """The one grammar of a source that the library wrote."""
    (grammar,) = json.loads(source)["grammars"]
    return grammar  # type: ignore[no-any-return]


def _with_bounded_schemas(kind: str, text: str) -> str:
    """A Lark grammar in which every schema is as `_schema` makes it."""
    parts, done, index = [], 0, 0
    decoder = json.JSONDecoder()
    while found := _EMBEDS_SCHEMA.search(text, index):
        index = found.end()
        if found["schema"]:
            try:
                _, end = decoder.raw_decode(text, index)
            except (ValueError, RecursionError):
                break  # the library has a better message
            parts += [text[done:index], json.dumps(_schema(kind, text[index:end]))]
            done = index = end
    return "".join([*parts, text[done:]])


def _check_patterns(kind: str, text: str) -> None:
    try:
        nodes = [json.loads(text)]
    except (ValueError, RecursionError):
        return  # the library has a better message
    while nodes:
        node = nodes.pop()
        if isinstance(node, list):
            nodes += node
        elif isinstance(node, dict):
            nodes += node.values()
            keys = node.get("patternProperties")
            for pattern in (node.get("pattern"), *(keys if isinstance(keys, dict) else ())):
                if isinstance(pattern, str) and _EXCLUDES_ESCAPED.search(pattern):
                    raise refusal(
                        kind,
                        f"pattern {pattern}: a class that excludes quotes or backslashes is not "
                        "supported; list what it may match",
                    )


def _check_multiples(kind: str, text: str) -> None:
    total = sum(_units(kind, number) for number in _MULTIPLE_OF.findall(text))
    if total > _MAX_MULTIPLES:
        raise refusal(
            kind,
            f"the numbers under multipleOf come to {total} units; at most {_MAX_MULTIPLES} "
            "can be served",
        )


def _units(kind: str, number: str) -> int:
    """The number counted in its last decimal place: 12 of 12, 25 of 0.25."""
    try:
        value = Decimal(number)
    except ArithmeticError:
        raise refusal(kind, f"multipleOf: {number} is not a number") from None
    if abs(value.adjusted()) > 20:
        raise refusal(kind, f"multipleOf: {number} is out of range")
    return int(abs(value).scaleb(max(0, -int(value.as_tuple().exponent))))
