import gc
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import jsonschema
import numpy as np
import pytest

from engine_service.structured_output.bitmask_filler import BitmaskFiller
from engine_service.structured_output.build_thread import BuildThread
from engine_service.structured_output.grammar_compiler import GrammarCompiler
from folovllm.errors import InvalidRequestError, QueueFullError
from folovllm.model_files import DEMO_MODEL
from folovllm.parameters.structured_output import StructuredOutput
from support.builders.grammar_walks import (
    DEMO_EOS,
    Walker,
    allowed_ids,
    demo_compiler,
    encode,
    follow,
)
from support.builders.json_schemas import SCHEMAS
from support.builders.sample_tokenizers import QWEN3, needs_qwen3

Kind = Literal["json_schema", "json_object", "regex", "choice", "grammar"]

QWEN3_EOS = (151645, 151643)
DIGITS = StructuredOutput("regex", "[0-9]{2,3}")
CALCULATOR = """
start: sum
sum: product (("+" | "-") product)*
product: atom (("*" | "/") atom)*
atom: NUMBER | "(" sum ")"
NUMBER: /[1-9][0-9]{0,3}/
"""


@pytest.fixture(scope="module")
def demo() -> Walker:
    return Walker(demo_compiler())


@pytest.fixture(scope="module")
def qwen3() -> Walker:
    return Walker(GrammarCompiler(QWEN3, 151936, QWEN3_EOS))


def check_schema(walker: Walker, name: str, seeds: range) -> None:
    schema = SCHEMAS[name]
    output = StructuredOutput("json_schema", json.dumps(schema))
    validator = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    texts = [text for seed in seeds if (text := walker.walk(output, seed)) is not None]
    for text in texts:
        validator.validate(json.loads(text))
    assert texts


def test_there_are_sixty_schemas() -> None:
    assert len(SCHEMAS) >= 60


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_walk_over_a_schema_parses_and_validates(demo: Walker, name: str) -> None:
    check_schema(demo, name, range(3))


@needs_qwen3
@pytest.mark.parametrize(
    "name",
    ["enum_awkward", "any_of_objects", "pattern_quotes", "tool_call", "recursive_list", "tuple"],
)
def test_a_walk_with_qwen3s_vocabulary_validates(qwen3: Walker, name: str) -> None:
    check_schema(qwen3, name, range(2))


@pytest.mark.parametrize("seed", range(5))
def test_any_json_object(demo: Walker, seed: int) -> None:
    text = demo.walk(StructuredOutput("json_object", True), seed)
    assert text is not None
    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    "pattern",
    ["[a-z]{3,8}", "[0-9]{4}-[0-9]{2}", "(foo|bar)+[.!?]", "^x?y$", "(?i)yes|no", "[^a-z]{1,3}"],
)
def test_a_walk_over_a_regex_matches_it(demo: Walker, pattern: str) -> None:
    for seed in range(5):
        text = demo.walk(StructuredOutput("regex", pattern), seed)
        assert text is not None
        assert re.fullmatch(pattern, text)


def test_a_choice_gives_every_option_and_nothing_else(demo: Walker) -> None:
    options = ('a "b"', "back\\", "\n\t", "é \U0001f600", "\x01\x7f", "<think>", "a", "ab", "$(x)")
    output = StructuredOutput("choice", options)
    assert {demo.walk(output, seed) for seed in range(300)} == set(options)


def test_a_choice_may_have_thousands_of_options(demo: Walker) -> None:
    options = tuple(f"option {i}" for i in range(4000))
    assert demo.walk(StructuredOutput("choice", options), 0) in options


@pytest.mark.parametrize("seed", range(5))
def test_a_lark_grammar_with_recursion(demo: Walker, seed: int) -> None:
    text = demo.walk(StructuredOutput("grammar", CALCULATOR), seed)
    if text is not None:
        assert re.fullmatch(r"[-+*/()0-9]+", text)
        eval(text.replace("/", "+"))


def test_a_lark_grammar_may_hold_a_schema(demo: Walker) -> None:
    output = StructuredOutput("grammar", 'start: "=" %json {"enum": [1, 2]}')
    assert demo.walk(output, 0) in ("=1", "=2")


DECOYS = r"""# "%json {
// /%json {
start: "\" %json {" </tool_call> /" %json \{/ """


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (r'{"pattern": "^[^\"]*$"}', "excludes quotes"),
        ('{"type": "integer", "multipleOf": 999983}', "at most 50000"),
        ('{"type": "objec"}', "Invalid type: objec"),
        ("true", "object schema"),
        ("{", "EOF while parsing"),
        ('{"items":' * 5000, "EOF|recursion limit"),
    ],
)
def test_schemas_in_lark_are_checked_like_others(demo: Walker, schema: str, message: str) -> None:
    lark = StructuredOutput("grammar", f'{DECOYS} %json {{"const": 1}} a\na: %json{schema}')
    with pytest.raises(InvalidRequestError, match=message) as caught:
        demo.compiler.compile(lark)
    assert caught.value.field == "sampling_params.grammar"


def test_what_only_looks_like_a_schema_in_lark_is_left_alone(demo: Walker) -> None:
    text = demo.walk(StructuredOutput("grammar", f'{DECOYS} %json {{"const": 1}}'), 0)
    assert text == '" %json {</tool_call>" %json {1'


@pytest.mark.parametrize("kind", ["json_schema", "grammar"])
def test_whitespace_ends_wherever_the_schema_stands(kind: Kind) -> None:
    compiler = demo_compiler()
    schema = '{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}'
    value = schema if kind == "json_schema" else f"start: %json {schema}"
    matcher = compiler.compile(StructuredOutput(kind, value)).matcher()
    (brace,), (space,) = encode(compiler, "{"), encode(compiler, "\n")
    follow(matcher, [brace] + [space] * 40)
    assert space not in allowed_ids(matcher)


def test_eos_is_allowed_exactly_where_the_output_is_complete() -> None:
    compiler = demo_compiler()
    digit = {str(i): encode(compiler, str(i))[0] for i in range(10)}
    matcher = compiler.compile(DIGITS).matcher()
    for _ in range(3):
        assert not matcher.must_stop
        assert (matcher.may_stop, 2041 in allowed_ids(matcher)) in ((True, True), (False, False))
        matcher.accept(digit["7"])
    assert matcher.must_stop
    assert set(allowed_ids(matcher)) == set(DEMO_EOS)
    matcher.accept(2039)
    assert matcher.must_stop


def test_an_id_that_the_grammar_does_not_take_is_refused_for_good() -> None:
    compiler = demo_compiler()
    matcher = compiler.compile(DIGITS).matcher()
    with pytest.raises(InvalidRequestError, match="doesn't satisfy the grammar") as caught:
        matcher.accept(encode(compiler, "x")[0])
    assert caught.value.field == "sampling_params.regex"
    assert "\n" not in str(caught.value)
    with pytest.raises(InvalidRequestError):
        allowed_ids(matcher)


def test_an_eos_that_a_grammar_names_itself_does_not_count() -> None:
    compiler = demo_compiler()
    matcher = compiler.compile(StructuredOutput("grammar", 'start: "a" <|im_end|> "b"')).matcher()
    matcher.accept(encode(compiler, "a")[0])
    with pytest.raises(InvalidRequestError, match="no token can continue"):
        allowed_ids(matcher)


def test_copies_go_their_own_ways() -> None:
    compiler = demo_compiler()
    yes, no = "yes please", "yes no"
    output = StructuredOutput("regex", f"{yes}|{no}")
    matcher = compiler.compile(output).matcher()
    follow(matcher, encode(compiler, "yes"))
    fork = matcher.copy()
    follow(matcher, encode(compiler, " please"))
    assert matcher.must_stop
    assert not fork.may_stop
    follow(fork, encode(compiler, " no"))
    assert fork.must_stop


def test_ids_above_the_tokenizers_are_never_allowed() -> None:
    compiler = GrammarCompiler(DEMO_MODEL, 2100, DEMO_EOS)
    allowed = allowed_ids(compiler.compile(StructuredOutput("regex", "(.|\\n)*")).matcher())
    assert compiler.vocabulary.num_words == 66
    assert len(allowed) > 1000
    assert allowed.max() < 2048


def test_a_batch_is_filled_like_its_rows_and_a_failed_row_harms_no_other() -> None:
    compiler = demo_compiler()
    grammars = [
        compiler.compile(output)
        for output in (
            DIGITS,
            StructuredOutput("json_object", True),
            StructuredOutput("choice", ("x", "y")),
        )
    ]
    matchers = [grammars[i % 3].matcher() for i in range(8)]
    with pytest.raises(InvalidRequestError):
        matchers[3].accept(0)
    bitmask = np.zeros((8, compiler.vocabulary.num_words), dtype=np.int32)
    errors = BitmaskFiller(2).fill_bitmasks(matchers, bitmask)
    assert list(errors) == [3]
    assert errors[3].field == "sampling_params.regex"
    for i in set(range(8)) - {3}:
        row = np.zeros(compiler.vocabulary.num_words, dtype=np.int32)
        grammars[i % 3].matcher().fill_bitmask(row)
        np.testing.assert_array_equal(bitmask[i], row)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("regex", "(", "unclosed group"),
        ("regex", "(?=x)y", "look-ahead"),
        ("regex", "(a|b)?" * 5000, "lexer"),
        ("json_schema", "[1", "EOF while parsing"),
        ("json_schema", '{"type": "objec"}', "Invalid type: objec"),
        ("json_schema", '{"$ref": "#/nowhere"}', "does not exist"),
        ("json_schema", '{"$ref": "#"}', "no output can begin"),
        ("json_schema", '{"not": {}}', "Unimplemented keys"),
        ("json_schema", '{"type": "string", "format": "foo"}', "Unknown format: foo"),
        ("json_schema", '{"allOf": [{"type": "null"}, {"type": "string"}]}', "Unsatisfiable"),
        ("json_schema", '{"items":' * 5000 + "{}" + "}" * 5000, "recursion limit"),
        ("json_schema", '{"type": "integer", "multipleOf": 999983}', "at most 50000"),
        ("json_schema", '{"type": "integer", "multipleOf": 1e99999}', "out of range"),
        ("json_schema", '{"type": "integer", "multipleOf": 1e}', "invalid number"),
        ("json_schema", r'{"type": "string", "pattern": "^[^a\"]$"}', "excludes quotes"),
        ("json_schema", r'{"patternProperties": {"[^\\\\]": {}}}', "excludes quotes"),
        ("regex", "(a{1000}){1000}", "too many expressions"),
        ("grammar", "start: nowhere", "unknown name"),
        ("grammar", "start: x\nx: x", "no output can begin"),
        ("grammar", '{"grammars": []}', "expecting rule"),
        ("grammar", "start: " + "(" * 9000, "too deeply nested"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_librarys_words(
    demo: Walker, kind: Kind, value: str, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        demo.compiler.compile(StructuredOutput(kind, value))
    assert caught.value.field == f"sampling_params.{kind}"
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_grammar_that_outgrows_the_limits_on_the_way_is_given_up() -> None:
    compiler = demo_compiler()
    ambiguous = StructuredOutput("grammar", 'start: e\ne: e e | e e e | "a" | /[a-z]/')
    matcher = compiler.compile(ambiguous).matcher()
    letter = encode(compiler, "a")[0]
    with pytest.raises(InvalidRequestError, match="limit|max") as caught:
        follow(matcher, [letter] * 500)
    assert caught.value.field == "sampling_params.grammar"
    with pytest.raises(InvalidRequestError):
        matcher.accept(letter)


def test_a_long_chain_of_rules_does_not_overflow_the_stack(demo: Walker) -> None:
    rules = "\n".join(f"r{i}: r{i + 1}" for i in range(5000))
    assert demo.walk(StructuredOutput("grammar", f'start: r0\n{rules}\nr5000: "a"'), 0) == "a"


@pytest.mark.parametrize(
    ("content", "eos_token_ids", "message"),
    [
        (None, DEMO_EOS, "folder lacks"),
        ("{}", DEMO_EOS, "of no use"),
        ("\udc80", DEMO_EOS, "cannot be read"),
        (None, (), "EOS"),
    ],
)
def test_a_folder_without_a_usable_tokenizer(
    tmp_path: Path, content: str | None, eos_token_ids: tuple[int, ...], message: str
) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InvalidRequestError, match=message) as caught:
        GrammarCompiler(tmp_path, 2048, eos_token_ids).compile(DIGITS)
    assert caught.value.field == "sampling_params.regex"


def test_the_cache_is_bounded_in_bytes_and_keeps_what_was_used_last() -> None:
    size = demo_compiler().compile(DIGITS).num_bytes
    compiler = demo_compiler(cache_bytes=2 * size + size // 2)
    first, second, third = (StructuredOutput("regex", f"[0-9]{{2,{n}}}") for n in (4, 5, 6))
    grammar = compiler.compile(first)
    compiler.compile(second)
    assert compiler.compile(first) is grammar
    compiler.compile(third)
    assert len(compiler.cache) == 2
    assert compiler.cache.num_bytes == 2 * size
    assert compiler.compile(first) is grammar


def test_a_large_grammar_counts_for_more_and_one_above_all_is_not_kept() -> None:
    compiler = demo_compiler(cache_bytes=2**20)
    small = compiler.compile(DIGITS)
    large = compiler.compile(StructuredOutput("choice", tuple(f"option {i}" for i in range(400))))
    assert large.num_bytes > 2**20
    assert compiler.compile(DIGITS) is small
    assert len(compiler.cache) == 1
    assert compiler.cache.num_bytes == small.num_bytes


def test_what_is_followed_counts_until_nothing_follows_it() -> None:
    compiler = demo_compiler(cache_bytes=0)
    matcher = compiler.compile(DIGITS).matcher()
    copied = matcher.copy()
    size = compiler.cache.num_living_bytes
    assert size > 0
    del matcher
    gc.collect()
    assert compiler.cache.num_living_bytes == size
    del copied
    gc.collect()
    assert compiler.cache.num_living_bytes == 0


def test_many_threads_compile_and_use_one_compiler() -> None:
    compiler = demo_compiler()
    outputs = [StructuredOutput("choice", (f"option {i}",)) for i in range(6)]

    def use(i: int) -> tuple[int, bool]:
        grammar = compiler.compile(outputs[i % 6])
        matcher = grammar.matcher()
        follow(matcher, encode(compiler, f"option {i % 6}"))
        return id(grammar), matcher.must_stop

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(use, range(120)))
    assert all(must_stop for _, must_stop in results)
    assert len({grammar for grammar, _ in results}) == len(compiler.cache) == 6


def test_a_build_that_takes_too_long_is_abandoned_and_blocks_the_next() -> None:
    lane, go_on = BuildThread(time_limit=0.05), threading.Event()
    with pytest.raises(TimeoutError):
        lane.run(go_on.wait)
    with pytest.raises(QueueFullError, match="busy"):
        lane.run(lambda: 1)
    go_on.set()
    patient = BuildThread(time_limit=60)
    assert patient.run(lambda: 2) == 2
    with pytest.raises(ValueError, match="wrong"):
        patient.run(wrong)
    assert patient.run(lambda: 3) == 3


def wrong() -> int:
    raise ValueError("wrong")
