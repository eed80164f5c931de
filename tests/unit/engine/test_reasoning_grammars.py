"""Grammars of reasoning, on the embedded model's ids, without a model."""

import dataclasses
import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from engine_service.structured_output.grammar_compiler import GrammarCompiler
from engine_service.structured_output.matcher import Matcher
from folovllm.errors import InvalidRequestError
from folovllm.parameters.reasoning import Reasoning
from folovllm.parameters.structured_output import StructuredOutput
from support.builders.grammar_walks import (
    DEMO_EOS,
    Walker,
    allowed_ids,
    demo_compiler,
    encode,
    follow,
)

START, END = 2046, 2047
CALL_START, CALL_END = 2042, 2043
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
DIGITS = StructuredOutput("regex", "[0-9]{2,3}")
CHOICE = StructuredOutput("choice", ("yes", "no", "\nperhaps"))
OUTPUTS = [
    (StructuredOutput("json_schema", json.dumps(PERSON)), None),
    (DIGITS, "[0-9]{2,3}"),
    (CHOICE, "yes|no|\nperhaps"),
    # The names of our own rules are free for others.
    (StructuredOutput("grammar", 'start: think BREAKS\nthink: "a"+\nBREAKS: /b+/'), "a+b+"),
]
MAYBE = Reasoning(END, START)
BEGUN = Reasoning(END)


@pytest.fixture(scope="module")
def demo() -> Walker:
    return Walker(demo_compiler())


def matcher_of(
    walker: Walker, output: StructuredOutput | None, reasoning: Reasoning = MAYBE
) -> Matcher:
    return walker.compiler.compile(output, reasoning).matcher()


def reason(matcher: Matcher, reasoning: Reasoning, rng: np.random.Generator) -> int:
    """Walks to the end of the reasoning; the number of ids between its borders."""
    if reasoning.start_token_id is not None:
        follow(matcher, [reasoning.start_token_id])
    for count in range(300):
        allowed = allowed_ids(matcher)
        assert not matcher.may_stop and not np.isin(allowed, DEMO_EOS).any()
        assert END in allowed
        at_bound = count == reasoning.max_tokens
        assert at_bound == (len(allowed) == 1)
        if at_bound or rng.random() < 0.1:
            matcher.accept(END)
            return count
        matcher.accept(int(rng.choice(allowed[allowed != END])))
    raise AssertionError("no end")


@pytest.mark.parametrize("most", [None, 0, 1, 7])
@pytest.mark.parametrize("reasoning", [MAYBE, BEGUN], ids=["maybe", "begun"])
@pytest.mark.parametrize(("output", "pattern"), OUTPUTS, ids=[o.kind for o, _ in OUTPUTS])
def test_the_answer_after_reasoning_is_what_was_asked_for(
    demo: Walker,
    output: StructuredOutput,
    pattern: str | None,
    reasoning: Reasoning,
    most: int | None,
) -> None:
    reasoning = dataclasses.replace(reasoning, max_tokens=most)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        matcher = matcher_of(demo, output, reasoning)
        count = reason(matcher, reasoning, rng)
        assert most is None or count <= most
        answer = demo.finish(matcher, rng)
        if answer is None:
            continue
        text = demo.vocabulary.load().decode_bytes(answer).decode()
        if pattern is None:
            jsonschema.validate(json.loads(text), PERSON)
        else:
            assert re.fullmatch(f"\n{{0,2}}({pattern})", text)


def test_an_answer_may_come_without_reasoning_only_where_the_prompt_has_not_begun_it(
    demo: Walker,
) -> None:
    first = allowed_ids(matcher_of(demo, DIGITS))
    alone = allowed_ids(demo.compiler.compile(DIGITS).matcher())
    assert set(first) - {START} - set(encode(demo.compiler, "\n\n\n")) == set(alone)
    matcher = matcher_of(demo, DIGITS)
    follow(matcher, encode(demo.compiler, "12"))
    assert matcher.may_stop and not {START, END} & set(allowed_ids(matcher))
    begun = allowed_ids(matcher_of(demo, DIGITS, BEGUN))
    assert set(begun) == set(range(2048)) - set(DEMO_EOS)


@pytest.mark.parametrize("breaks", range(3))
def test_at_most_two_line_breaks_come_before_the_answer(demo: Walker, breaks: int) -> None:
    matcher = matcher_of(demo, DIGITS)
    (line_break,) = encode(demo.compiler, "\n")
    follow(matcher, [START, END, *[line_break] * breaks])
    assert (line_break in allowed_ids(matcher)) == (breaks < 2)
    follow(matcher, encode(demo.compiler, "123"))
    assert matcher.must_stop and not matcher.is_spent


@pytest.mark.parametrize("most", [None, 0, 3])
def test_reasoning_alone_binds_nothing_after_its_end(demo: Walker, most: int | None) -> None:
    reasoning = dataclasses.replace(MAYBE, max_tokens=most)
    matcher = matcher_of(demo, None, reasoning)
    assert set(allowed_ids(matcher)) == set(range(2048))
    assert not matcher.is_spent
    reason(matcher.copy(), reasoning, np.random.default_rng(0))
    for ids in ([START, 5, 6, END], [START, END], [END], [5], [DEMO_EOS[0]]):
        if most == 0 and len(ids) == 4:
            continue
        branch = matcher.copy()
        for token_id in ids:
            assert not branch.is_spent
            branch.accept(token_id)
        assert branch.is_spent and not branch.must_stop
        assert branch.copy().is_spent


def test_reasoning_alone_that_the_prompt_has_begun(demo: Walker) -> None:
    matcher = matcher_of(demo, None, BEGUN)
    follow(matcher, [START, 5])
    assert not matcher.may_stop and not np.isin(allowed_ids(matcher), DEMO_EOS).any()
    follow(matcher, [END])
    assert matcher.is_spent


def test_a_bound_may_be_any_number_and_is_exact_after_thousands_of_ids(demo: Walker) -> None:
    matcher_of(demo, DIGITS, Reasoning(END, START, max_tokens=2**32 - 1))
    matcher = matcher_of(demo, DIGITS, Reasoning(END, START, max_tokens=5000))
    matcher.accept(START)
    for index in range(5000):
        matcher.accept(index % 2000)
        if index % 500 == 0:
            assert len(allowed_ids(matcher)) > 2000
    assert list(allowed_ids(matcher)) == [END]


def test_copies_in_the_middle_of_reasoning_go_their_own_ways(demo: Walker) -> None:
    matcher = matcher_of(demo, DIGITS, dataclasses.replace(MAYBE, max_tokens=2))
    follow(matcher, [START, 5])
    fork = matcher.copy()
    follow(matcher, [END, *encode(demo.compiler, "12")])
    follow(fork, [6])
    assert list(allowed_ids(fork)) == [END]
    assert matcher.may_stop


@pytest.mark.parametrize("reasoning", [None, MAYBE, BEGUN], ids=["none", "maybe", "begun"])
def test_tool_calls_by_token_ids_around_schemas(demo: Walker, reasoning: Reasoning | None) -> None:
    lark = f"""start: call ("\\n" call)*
call: <[{CALL_START}]> "\\n" body "\\n" <[{CALL_END}]>
body: "{{\\"name\\": \\"add\\", \\"arguments\\": " args "}}"
args: %json {json.dumps(PERSON)}
"""
    output = StructuredOutput("grammar", lark)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        matcher = demo.compiler.compile(output, reasoning).matcher()
        if reasoning is not None:
            reason(matcher, reasoning, rng)
        ids = demo.finish(matcher, rng)
        if ids is None:
            continue
        text = demo.vocabulary.load().decode_bytes(ids).decode().strip("\n")
        assert ids.count(CALL_START) == ids.count(CALL_END) == text.count("<tool_call>\n") > 0
        for call in text.removesuffix("\n</tool_call>").split("\n</tool_call>\n"):
            parsed = json.loads(call.removeprefix("<tool_call>\n"))
            assert parsed["name"] == "add"
            jsonschema.validate(parsed["arguments"], PERSON)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (StructuredOutput("grammar", "start: x\nx: x"), "no output can begin"),
        (StructuredOutput("grammar", "start: @answer"), "answer"),
        (StructuredOutput("regex", "("), "unclosed group"),
        (StructuredOutput("json_schema", '{"$ref": "#"}'), "no output can begin"),
    ],
)
def test_a_fault_of_the_answer_shows_before_any_reasoning(
    demo: Walker, output: StructuredOutput, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        demo.compiler.compile(output, MAYBE)
    assert caught.value.field == f"sampling_params.{output.kind}"


def test_a_folder_without_a_tokenizer_names_reasoning(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="folder lacks") as caught:
        GrammarCompiler(tmp_path, 2048, DEMO_EOS).compile(None, MAYBE)
    assert caught.value.field == "sampling_params.reasoning"


def test_the_cache_tells_reasonings_apart() -> None:
    compiler = demo_compiler()
    grammar = compiler.compile(DIGITS, MAYBE)
    assert compiler.compile(DIGITS, Reasoning(END, START)) is grammar
    others = [
        compiler.compile(DIGITS),
        compiler.compile(DIGITS, BEGUN),
        compiler.compile(None, BEGUN),
    ]
    assert len({id(found) for found in [grammar, *others]}) == len(compiler.cache) == 4
