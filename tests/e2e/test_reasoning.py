"""Reasoning before the answer through the whole engine, on the embedded model."""

import json
import re

import pytest
from jsonschema import Draft202012Validator

from folovllm import LLM, Client, InvalidRequestError, SamplingParams
from folovllm.outputs import CompletionOutput, FinishReason
from folovllm.parameters.reasoning import Reasoning
from folovllm.parameters.structured_output import StructuredOutput
from support.processes.service_processes import ServiceProcess

EOS = {2039, 2041}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def ask(question: str) -> str:
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


JSON = ask("Write as JSON: Anna is 12.")
SUM = ask("What is 23 + 48?")


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def start(llm: LLM) -> int:
    return llm.get_tokenizer().encode("<think>")[0]


@pytest.fixture(scope="module")
def end(llm: LLM) -> int:
    return llm.get_tokenizer().encode("</think>")[0]


def person(reasoning: Reasoning, **changes: object) -> SamplingParams:
    output = StructuredOutput("json_schema", json.dumps(PERSON))
    params = SamplingParams(max_tokens=300, structured_output=output, reasoning=reasoning)
    return params.clone(**changes)


def split(
    llm: LLM, completion: CompletionOutput, reasoning: Reasoning
) -> tuple[list[int] | None, str]:
    """The ids between the borders, None where it did not reason, and the text after them."""
    ids = completion.token_ids
    if reasoning.start_token_id is not None:
        if ids[0] != reasoning.start_token_id:
            return None, completion.text
        ids = ids[1:]
    index = ids.index(reasoning.end_token_id)
    assert reasoning.max_tokens is None or index <= reasoning.max_tokens
    assert not EOS & set(ids[:index])
    return ids[:index], llm.get_tokenizer().decode(ids[index + 1 :])


def check_person(text: str) -> None:
    Draft202012Validator(PERSON).validate(json.loads(text))


def test_a_schema_binds_the_answer_and_a_bound_the_reasoning(
    llm: LLM, start: int, end: int
) -> None:
    asked = []
    for seed in range(30):
        reasoning = Reasoning(end, start if seed % 2 else None, max_tokens=seed % 7)
        asked.append(person(reasoning, temperature=1.0, seed=seed))
    outputs = llm.generate([JSON if seed % 2 else JSON + "<think>\n" for seed in range(30)], asked)
    bounded = 0
    for params, output in zip(asked, outputs, strict=True):
        assert params.reasoning
        assert output.outputs[0].finish_reason is FinishReason.STOP
        reasoned, answer = split(llm, output.outputs[0], params.reasoning)
        bounded += reasoned is not None and len(reasoned) == params.reasoning.max_tokens
        check_person(answer)
    assert bounded > 15


def test_a_bound_leaves_a_free_answer_as_it_is(llm: LLM, start: int, end: int) -> None:
    free = SamplingParams(temperature=0.0, max_tokens=100)
    reasoning = Reasoning(end, start, max_tokens=5)
    (output,) = llm.generate(SUM, free.clone(reasoning=reasoning))
    completion = output.outputs[0]
    assert completion.token_ids[0] == start and completion.token_ids[6] == end
    assert completion.finish_reason is FinishReason.STOP and not completion.output_complete
    # What follows is what the model would say after such reasoning, with nothing in its way.
    so_far = completion.token_ids[:7]
    (other,) = llm.generate({"prompt_token_ids": [*output.prompt_token_ids, *so_far]}, free)
    assert completion.token_ids[7:] == other.outputs[0].token_ids
    # Where the model's own reasoning is within the bound, nothing changes at all.
    wide = free.clone(reasoning=Reasoning(end, start, max_tokens=90))
    assert (
        llm.generate(SUM, wide)[0].outputs[0].token_ids
        == llm.generate(SUM, free)[0].outputs[0].token_ids
    )


def test_other_parameters_keep_their_meaning(llm: LLM, start: int, end: int) -> None:
    reasoning = Reasoning(end, start, max_tokens=3)
    free = SamplingParams(seed=1, max_tokens=60, reasoning=reasoning)
    on = llm.generate(SUM, free.clone(ignore_eos=True))[0].outputs[0]
    assert len(on.token_ids) == 60
    first_eos = next(index for index, token_id in enumerate(on.token_ids) if token_id in EOS)
    assert set(on.token_ids[first_eos:]) - EOS
    late = llm.generate(SUM, free.clone(min_tokens=50))[0].outputs[0]
    assert len(late.token_ids) >= 50
    stopped = llm.generate(SUM, free.clone(stop_token_ids=(end,)))[0].outputs[0]
    assert (stopped.stop_reason, stopped.token_ids[-1]) == (end, end)
    cut = llm.generate(SUM, free.clone(max_tokens=3))[0].outputs[0]
    assert cut.finish_reason is FinishReason.LENGTH and end not in cut.token_ids


def test_n_preemption_and_prefix_cache_change_nothing(llm: LLM, start: int, end: int) -> None:
    small = LLM(
        dtype="float32",
        device="cpu",
        block_size=8,
        num_gpu_blocks_override=16,
        max_num_seqs=8,
        max_num_batched_tokens=48,
    )
    reasoning = Reasoning(end, start, max_tokens=8)
    asked = [person(reasoning, seed=seed, max_tokens=90, n=2) for seed in range(4)]
    asked.append(SamplingParams(seed=9, max_tokens=60, n=2, reasoning=reasoning))
    large = [output.outputs for output in llm.generate([JSON] * 5, asked)]
    found = [output.outputs for output in small.generate([JSON] * 5, asked)]
    for ours, theirs in zip(found, large, strict=True):
        assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]
    for completions in found[:4]:
        for completion in completions:
            check_person(split(llm, completion, reasoning)[1])
    metrics = [c.metrics for completions in found for c in completions]
    assert sum(metric.preemptions for metric in metrics if metric) > 0


def test_branches_in_the_middle_of_reasoning(llm: LLM, start: int, end: int) -> None:
    trunk = person(Reasoning(end, start, max_tokens=20), temperature=0.0)
    begun = Reasoning(end, max_tokens=3)
    parent, branches = llm.generate_branches(
        JSON, trunk, [person(begun, seed=1), SamplingParams(seed=2, reasoning=begun)], after=4
    )
    check_person(split(llm, parent.outputs[0], Reasoning(end, start, max_tokens=20))[1])
    check_person(split(llm, branches.outputs[0], begun)[1])
    assert split(llm, branches.outputs[1], begun)[1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("reasons", [False, True])
def test_tool_calls_as_a_grammar(
    llm: LLM, start: int, end: int, temperature: float, reasons: bool
) -> None:
    call, close = (llm.get_tokenizer().encode(text)[0] for text in ("<tool_call>", "</tool_call>"))
    lark = f"""start: call ("\\n" call)*
call: <[{call}]> "\\n" body "\\n" <[{close}]>
body: "{{\\"name\\": \\"get_weather\\", \\"arguments\\": " args_0 "}}"
args_0: %json {json.dumps(WEATHER)}
"""
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
    system = (
        "# Tools\n\nThese functions can be called:\n<tools>\n" + json.dumps(tool) + "\n</tools>\n\n"
        "To call one, write:\n<tool_call>\n"
        '{"name": <name>, "arguments": <object>}\n</tool_call>'
    )
    prompt = f"<|im_start|>system\n{system}<|im_end|>\n" + ask("What is the weather in Paris?")
    params = SamplingParams(
        temperature=temperature,
        seed=3,
        max_tokens=200,
        structured_output=StructuredOutput("grammar", lark),
        reasoning=Reasoning(end, start, max_tokens=10) if reasons else None,
    )
    completion = llm.generate(prompt, params)[0].outputs[0]
    assert completion.finish_reason is FinishReason.STOP
    assert (start in completion.token_ids) == reasons
    (found,) = re.findall(r"<tool_call>\n(.*)\n</tool_call>$", completion.text)
    assert json.loads(found) == {"name": "get_weather", "arguments": {"city": "Paris"}}


def test_over_the_network(tokenizer: ServiceProcess, llm: LLM, start: int, end: int) -> None:
    reasoning = Reasoning(end, start, max_tokens=4)
    with Client(tokenizer.address, timeout=60) as client:
        output = client.generate(JSON, person(reasoning, seed=1))
        check_person(split(llm, output.outputs[0], reasoning)[1])
        assert output.info and output.info.sampling_params.reasoning == reasoning
        for wrong in (Reasoning(5000), Reasoning(2041)):
            with pytest.raises(InvalidRequestError) as refused:
                client.generate(JSON, person(wrong))
            assert refused.value.field == "sampling_params.reasoning.end_token_id"
        with pytest.raises(InvalidRequestError) as refused:
            client.generate(JSON, SamplingParams(reasoning=Reasoning(end, 2048)))
        assert refused.value.field == "sampling_params.reasoning.start_token_id"
