"""GrammarSpec in the form that llguidance compiles."""

import json
import re
from collections.abc import Sequence

from llguidance import LLMatcher

from engine_service.structured_output.grammar_spec import GrammarSpec
from engine_service.structured_output.judgement.schema import check_schema
from engine_service.structured_output.library import GrammarError
from engine_service.structured_output.reasoning_grammar import reasoning_alone, reasoning_before

# JSON allows unlimited whitespace between two tokens, and a model may never stop producing it. This
# much indents ten levels by four.
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,40}"

# The start of a schema in Lark, and what else may contain these letters: strings, comments, regular
# expressions and special tokens. One that is not closed reaches the end, and nothing that has
# matched is tried in another way, which keeps this linear.
_EMBEDS_SCHEMA = re.compile(
    r'(?P<schema>%json[ \t\r\n]*+)|"(?:[^"\\]|\\.)*+"?+|(?:#|//)[^\n]*+'
    r"|/(?:[^/\\]|\\.)++/?+|<[^<>\s]++>",
    re.DOTALL,
)

# One of the grammars of a source: Lark text or a schema, under the library's name for its kind.
_Grammar = dict[str, object]


def grammar_sources(spec: GrammarSpec, eos_token_ids: Sequence[int]) -> list[str]:
    """The library's sources of a grammar, which may still turn out to be invalid.

    The last one is to be followed: it covers the whole output, reasoning and the answer after it,
    or reasoning alone. Of one with reasoning, faults in the answer show only in the one before it,
    since the first mask lies in the reasoning. Raises GrammarError for a fault that shows already.
    """
    grammars = [] if spec.kind is None else [_grammar(spec)]
    if spec.reasoning is None:
        return [_source(grammars)]
    if not grammars:
        return [_source([_lark(reasoning_alone(spec.reasoning, eos_token_ids))])]
    alone = _source(grammars)
    grammars[0]["name"] = "answer"
    before = _lark(reasoning_before("answer", spec.reasoning, eos_token_ids))
    return [alone, _source([before, *grammars])]


def _source(grammars: list[_Grammar]) -> str:
    return json.dumps({"grammars": grammars})


def _grammar(spec: GrammarSpec) -> _Grammar:
    value = spec.value
    if isinstance(value, tuple):
        return _lark(f"start: CHOICE\nCHOICE: {' | '.join(json.dumps(text) for text in value)}")
    if not isinstance(value, str):
        return {"json_schema": _schema('{"type": "object"}')}
    if spec.kind == "regex":
        return _lark(_only(LLMatcher.grammar_from_regex(value))["lark_grammar"])
    if spec.kind == "json_schema":
        return {"json_schema": _schema(value)}
    return _lark(_with_bounded_schemas(value))


def _lark(text: object) -> _Grammar:
    return {"lark_grammar": text}


def _schema(text: str) -> object:
    """A schema that the library supports, with bounded whitespace unless it sets its own."""
    try:
        source = LLMatcher.grammar_from_json_schema(
            text, defaults={"whitespace_pattern": _WHITESPACE}
        )
    except ValueError as error:
        raise GrammarError(str(error)) from None
    check_schema(text)
    return _only(source)["json_schema"]


def _only(source: str) -> _Grammar:
    """The one grammar of a source that the library wrote."""
    (grammar,) = json.loads(source)["grammars"]
    return grammar  # type: ignore[no-any-return]


def _with_bounded_schemas(text: str) -> str:
    """A Lark grammar in which every schema is as `_schema` makes it."""
    parts, done, index = [], 0, 0
    decoder = json.JSONDecoder(parse_int=str, parse_float=str)
    while found := _EMBEDS_SCHEMA.search(text, index):
        index = found.end()
        if found["schema"]:
            try:
                _, end = decoder.raw_decode(text, index)
            except (ValueError, RecursionError):
                break  # the library has a better message
            parts += [text[done:index], json.dumps(_schema(text[index:end]))]
            done = index = end
    return "".join([*parts, text[done:]])
