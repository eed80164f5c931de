"""Structured output through the whole engine, on the embedded model at temperature 1."""

import json
import re

import pytest
from jsonschema import Draft202012Validator

from folovllm import LLM, Client, SamplingParams
from folovllm.outputs import FinishReason
from folovllm.parameters.structured_output import StructuredOutput
from support.builders.json_schemas import SCHEMAS
from support.processes.service_processes import ServiceProcess

PROMPT = "<|im_start|>user\nWrite as JSON: Anna is 12.<|im_end|>\n<|im_start|>assistant\n"
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def schema_params(schema: object, **changes: object) -> SamplingParams:
    output = StructuredOutput("json_schema", json.dumps(schema))
    params = SamplingParams(temperature=1.0, max_tokens=400, structured_output=output)
    return params.clone(**changes)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(dtype="float32", device="cpu")


def check(schema: object, text: str) -> None:
    Draft202012Validator(schema).validate(json.loads(text))  # type: ignore[arg-type]


def test_every_schema_is_followed(llm: LLM) -> None:
    assert len(SCHEMAS) >= 60
    params = [schema_params(schema, seed=n) for n, schema in enumerate(SCHEMAS.values())]
    cut = []
    for (name, schema), output in zip(
        SCHEMAS.items(), llm.generate([PROMPT] * len(params), params), strict=True
    ):
        completion = output.outputs[0]
        if completion.finish_reason is FinishReason.LENGTH:
            cut.append(name)
        else:
            assert completion.finish_reason is FinishReason.STOP
            check(schema, completion.text)
    # A weak model rambles where a schema lets it; that is max_tokens' business, not the grammar's.
    assert len(cut) <= len(SCHEMAS) // 4, cut


def test_free_and_constrained_requests_share_a_batch_and_n_go_their_own_ways(llm: LLM) -> None:
    free = SamplingParams(temperature=0.0, max_tokens=30)
    digits = SamplingParams(
        n=8, seed=1, max_tokens=20, structured_output=StructuredOutput("regex", "[0-9]{3,5}")
    )
    choice = SamplingParams(
        temperature=0.0,
        max_tokens=20,
        structured_output=StructuredOutput("choice", ("red", "green")),
    )
    alone = llm.generate(PROMPT, free)[0].outputs[0].text
    outputs = llm.generate(
        [PROMPT] * 5, [free, digits, choice, free, schema_params(PERSON, seed=2, n=2)]
    )
    assert outputs[0].outputs[0].text == outputs[3].outputs[0].text == alone
    texts = [completion.text for completion in outputs[1].outputs]
    assert all(re.fullmatch("[0-9]{3,5}", text) for text in texts) and len(set(texts)) > 1
    assert outputs[2].outputs[0].text in ("red", "green")
    for completion in outputs[4].outputs:
        check(PERSON, completion.text)


def test_it_ends_as_soon_as_the_grammar_is_complete(llm: LLM) -> None:
    output = StructuredOutput("regex", "[ab]{4}")
    params = SamplingParams(max_tokens=50, min_tokens=30, ignore_eos=True, structured_output=output)
    completion = llm.generate(PROMPT, params)[0].outputs[0]
    assert re.fullmatch("[ab]{4}", completion.text)
    assert (completion.finish_reason, completion.stop_reason) == (FinishReason.STOP, None)
    assert len(completion.token_ids) <= 4


def test_other_parameters_hold_as_far_as_the_grammar_lets_them(llm: LLM) -> None:
    letters = StructuredOutput("regex", "[a-z]{6,12}")
    base = SamplingParams(max_tokens=40, seed=3, structured_output=letters)
    whole = llm.generate(PROMPT, base)[0].outputs[0].text
    stopped = llm.generate(PROMPT, base.clone(stop=(whole[2:4],)))[0].outputs[0]
    assert stopped.text == whole[: whole.index(whole[2:4])]
    only = llm.get_tokenizer().encode("a")
    allowed = llm.generate(PROMPT, base.clone(allowed_token_ids=only))[0].outputs[0].text
    assert set(allowed) == {"a"}
    impossible = llm.generate(PROMPT, base.clone(allowed_token_ids=[7]))[0].outputs[0]
    assert re.fullmatch("[a-z]{6,12}", impossible.text)
    without = llm.generate(PROMPT, base.clone(bad_words=(whole[:2],)))[0].outputs[0].text
    assert re.fullmatch("[a-z]{6,12}", without)


def test_preemption_and_prefix_cache_change_nothing() -> None:
    small = LLM(
        dtype="float32",
        device="cpu",
        block_size=8,
        num_gpu_blocks_override=16,
        max_num_seqs=8,
        max_num_batched_tokens=48,
    )
    params = [schema_params(PERSON, seed=seed, max_tokens=80) for seed in range(8)]
    for _ in range(2):
        outputs = small.generate([PROMPT] * 8, params)
        for output in outputs:
            check(PERSON, output.outputs[0].text)
    metrics = [output.outputs[0].metrics for output in outputs]
    assert sum(found.preemptions for found in metrics if found) > 0


def test_over_the_network(tokenizer: ServiceProcess) -> None:
    with Client(tokenizer.address, timeout=60) as client:
        for seed in range(3):
            output = client.generate(PROMPT, schema_params(PERSON, seed=seed))
            check(PERSON, output.outputs[0].text)
            assert output.info
            assert output.info.sampling_params.structured_output is not None
        any_object = SamplingParams(
            max_tokens=300, seed=5, structured_output=StructuredOutput("json_object", True)
        )
        completion = client.generate(PROMPT, any_object).outputs[0]
        if completion.finish_reason is FinishReason.STOP:
            assert isinstance(json.loads(completion.text), dict)
        lark = StructuredOutput("grammar", 'start: "yes" | "no" " "* "way"')
        answer = client.generate(PROMPT, SamplingParams(structured_output=lark)).outputs[0].text
        assert re.fullmatch("yes|no *way", answer)


def test_branches_follow_grammars_of_their_own(llm: LLM) -> None:
    digits = SamplingParams(seed=1, structured_output=StructuredOutput("regex", "[0-9]{4}"))
    person = schema_params(PERSON, seed=2)
    trunk = SamplingParams(temperature=0.0)
    _, branches = llm.generate_branches(PROMPT, trunk, [digits, person], after=3)
    texts = [branch.text for branch in branches.outputs]
    assert re.fullmatch("[0-9]{4}", texts[0])
    check(PERSON, texts[1])
