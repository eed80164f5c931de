"""A real model continues what was cut at any token, elsewhere, to the same last bit."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict, Unpack

import pytest
import torch

from engine_service.core.request import Branch, Request
from engine_service.engine.llm_engine import LLMEngine
from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.parameters.reasoning import Reasoning
from folovllm.parameters.structured_output import StructuredOutput
from folovllm.sampling_params import SamplingParams
from folovllm_client.llm.engine_args import EngineArgs
from folovllm_client.llm.loading import load_engine, load_text_model
from support.builders.cut_requests import add, cut

# Tensors as small as these gain nothing from threads.
torch.set_num_threads(1)

DRAWN = SamplingParams(max_tokens=24, ignore_eos=True, logprobs=2)
# Special tokens of the embedded model.
START, END = 2046, 2047
CASES = {
    "greedy": DRAWN.clone(temperature=0.0),
    "seeded": DRAWN,
    "filtered": DRAWN.clone(temperature=1.3, top_p=0.9, top_k=50, min_p=0.01),
    "penalised": DRAWN.clone(presence_penalty=0.5, frequency_penalty=0.3, repetition_penalty=1.2),
    "bad words": DRAWN.clone(
        temperature=0.5, bad_words_token_ids=((773, 302), (373,), (773, 373, 302))
    ),
    "several": DRAWN.clone(n=3, frequency_penalty=0.2, prompt_logprobs=1),
    "stopped": DRAWN.clone(n=2, min_tokens=9, stop_token_ids=(*range(300, 310), *range(740, 780))),
    "grammar": DRAWN.clone(structured_output=StructuredOutput("regex", "[a-z]{2,9}( [a-z]+){3,}")),
    "reasoning": DRAWN.clone(
        n=2,
        ignore_eos=False,
        reasoning=Reasoning(END, None, max_tokens=9),
        structured_output=StructuredOutput("json_object", True),
    ),
    "repeated": DRAWN.clone(allowed_token_ids=(30, 31, 32), temperature=0.7),
}


@dataclass(frozen=True)
class Undisturbed:
    """A request and all that comes of it."""

    request: Request
    whole: RequestOutput
    branch_index: int = 0


class SchedulerOptions(TypedDict, total=False):
    """Some of EngineArgs."""

    speculation: str
    max_num_seqs: int
    max_num_batched_tokens: int
    num_gpu_blocks_override: int
    max_model_len: int
    enable_prefix_caching: bool


def engine_of(quantization: str, **options: Unpack[SchedulerOptions]) -> LLMEngine:
    # `deterministic` is for processors without kernels of ours.
    args = EngineArgs(
        device="cpu", dtype="bfloat16", quantization=quantization, deterministic=True, **options
    )
    return load_engine(args, load_text_model(args))


def undisturbed(engine: LLMEngine, choice: random.Random, rounds: int) -> list[Undisturbed]:
    """All cases, and a branch of each with one continuation, with random prompts and seeds."""
    requests: dict[str, Request] = {}
    for number in range(rounds):
        for case, params in CASES.items():
            prompt = [choice.randrange(2, 2000) for _ in range(choice.randint(1, 70))]
            name, seed = f"{case} {number}", choice.getrandbits(64)
            requests[name] = Request(name, prompt, params.clone(seed=seed))
    results = {name: RequestOutput(name) for name in requests}
    for request in requests.values():
        engine.add_request(request)
    while engine.has_unfinished_requests():
        for output in engine.step():
            result = results.setdefault(output.request_id, RequestOutput(output.request_id))
            result.add(output)
        for name, request in list(requests.items()):
            seq = engine.scheduler.find_unfinished(name, 0)
            if seq is None or request.sampling_params.n > 1 or seq.num_output_tokens < 5:
                continue
            params = request.sampling_params.clone(seed=7)
            if f"{name} forked" not in requests and not name.endswith("forked"):
                branches = [Branch(params.clone(seed=seed)) for seed in (8, 9)]
                engine.fork_request(name, 0, f"{name} forked", branches)
                requests[f"{name} forked"] = seq.branch_requests(branches)[1]
    return [
        Undisturbed(requests[name], second_of(result), 1)
        if name.endswith("forked")
        else Undisturbed(requests[name], result)
        for name, result in results.items()
    ]


def second_of(fork: RequestOutput) -> RequestOutput:
    """The second branch by itself, as index 0."""
    output = fork.outputs[1]
    output.index = 0
    return RequestOutput(outputs=[output], info=fork.info)


def cuts_of(found: Undisturbed, choice: random.Random) -> list[int]:
    return [choice.randrange(25) for _ in found.whole.outputs]


def differences(
    engine: LLMEngine, cases: list[Undisturbed], choice: random.Random
) -> Iterator[str]:
    """Cuts each of them at random tokens, and says what differs where it goes on in `engine`."""
    results: dict[str, tuple[Undisturbed, RequestOutput]] = {}
    indexes = {}
    for found in cases:
        rest, received = cut(found.request, found.whole, cuts_of(found, choice), found.branch_index)
        if rest is not None:
            results[rest.request_id] = found, received
            indexes[rest.request_id] = found.branch_index
            engine.add_request(rest)
    while engine.has_unfinished_requests():
        for output in engine.step():
            output.index -= indexes[output.request_id]
            add(results[output.request_id][1], output)
    for found, received in results.values():
        pairs = zip(received.outputs, found.whole.outputs, strict=True)
        if any(facts(one) != facts(other) for one, other in pairs):
            yield found.request.request_id
        assert received.info and found.whole.info
        assert received.info.prompt_logprobs == found.whole.info.prompt_logprobs


def facts(output: CompletionOutput) -> tuple[object, ...]:
    assert output.usage
    return (
        output.token_ids,
        output.logprobs,
        output.cumulative_logprob,
        output.finish_reason,
        output.stop_reason,
        output.output_complete,
        output.usage.prompt_tokens,
        output.usage.completion_tokens,
    )


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_what_is_cut_and_continued_equals_the_undisturbed(quantization: str) -> None:
    choice = random.Random(5)
    cases = undisturbed(engine_of(quantization), choice, 1)
    # They draw different things, and nothing would be proved if they were all the same.
    assert len({tuple(each.whole.outputs[0].token_ids) for each in cases}) > 15
    tight = engine_of(
        quantization,
        speculation="none",
        max_num_seqs=5,
        max_num_batched_tokens=23,
        num_gpu_blocks_override=16,
        max_model_len=200,
        enable_prefix_caching=False,
    )
    assert list(differences(tight, cases, choice)) == []
    few = engine_of(quantization, max_num_seqs=4)  # so few that there are drafts
    assert list(differences(few, cases, choice)) == []
