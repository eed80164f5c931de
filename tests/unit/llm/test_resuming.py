"""Outputs that were cut off go on as they would have."""

import asyncio
from dataclasses import replace

import pytest
import torch

from folovllm import LLM, InvalidRequestError, SamplingParams
from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.vllm_names import RequestOutputKind
from folovllm_client.llm.async_llm import AsyncLLM
from folovllm_client.llm.engine_args import EngineArgs, EngineOptions

# Tensors as small as these gain nothing from threads.
torch.set_num_threads(1)

OPTIONS: EngineOptions = {
    "dtype": "bfloat16",
    "device": "cpu",
    "deterministic": True,
    "num_gpu_blocks_override": 256,
}
DRAWN = SamplingParams(n=2, max_tokens=20, seed=11, temperature=1.2, logprobs=1, stop=("zzz",))
PROMPTS = ["Once upon a time", "The cat", "What is 47 + 38?"]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(**OPTIONS)


def cut_off(llm: LLM, params: SamplingParams, num_steps: int) -> list[RequestOutput]:
    """What has come of the prompts after some steps."""
    engine = llm.llm_engine
    latest: dict[str, RequestOutput] = {}
    for prompt in PROMPTS:
        engine.add_request(prompt, prompt, params)
    for _ in range(num_steps):
        latest |= {output.request_id: output for output in engine.step()}
    engine.abort_request(PROMPTS)
    return [latest[prompt] for prompt in PROMPTS]


def facts(output: RequestOutput) -> list[tuple[object, ...]]:
    return [
        (
            each.index,
            each.text,
            each.token_ids,
            each.logprobs,
            each.cumulative_logprob,
            each.finish_reason,
            each.stop_reason,
            each.usage and each.usage.completion_tokens,
        )
        for each in output.outputs
    ]


@pytest.mark.parametrize("num_steps", [1, 13])
def test_outputs_are_completed_as_they_would_have_been(llm: LLM, num_steps: int) -> None:
    params = DRAWN.clone(prompt_logprobs=0)
    whole = llm.generate(PROMPTS, params, use_tqdm=False)
    outputs = cut_off(llm, params, num_steps)
    before = [facts(output) for output in outputs]
    resumed = llm.resume(outputs, use_tqdm=False)
    assert [facts(output) for output in resumed] == [facts(output) for output in whole]
    assert [output.prompt for output in resumed] == PROMPTS
    assert [output.prompt_logprobs for output in resumed] == [
        output.prompt_logprobs for output in whole
    ]
    assert [facts(output) for output in outputs] == before  # they are the caller's
    assert llm.resume(whole, use_tqdm=False) == whole
    assert facts(llm.resume(outputs[1], use_tqdm=False)[0]) == facts(whole[1])


def test_a_stop_string_may_lie_across_the_cut(llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=30)
    (whole,) = llm.generate(PROMPTS[0], params, use_tqdm=False)
    text = whole.outputs[0].text
    stopping = params.clone(stop=(text[18:26],))
    (stopped,) = llm.generate(PROMPTS[0], stopping, use_tqdm=False)
    assert stopped.outputs[0].stop_reason == text[18:26]
    for num_steps in range(1, len(stopped.outputs[0].token_ids), 3):
        output = cut_off(llm, stopping, num_steps)[0]
        assert facts(llm.resume(output, use_tqdm=False)[0]) == facts(stopped)


def test_ended_continuations_stay_as_they_are(llm: LLM) -> None:
    (whole,) = llm.generate(PROMPTS[:1], DRAWN, use_tqdm=False)
    begun = CompletionOutput(index=1, token_ids=whole.outputs[1].token_ids[:4])
    begun.logprobs = whole.outputs[1].logprobs[:4]
    output = replace(whole, outputs=[whole.outputs[0], begun])
    assert facts(llm.resume(output, use_tqdm=False)[0]) == facts(whole)
    # Nothing has come of the second yet, as when a server's deltas are joined.
    output = replace(whole, outputs=whole.outputs[:1])
    output.outputs = [replace(whole.outputs[0], finish_reason=None)]
    output.outputs[0].token_ids = whole.outputs[0].token_ids[:3]
    output.outputs[0].logprobs = whole.outputs[0].logprobs[:3]
    assert facts(llm.resume(output, use_tqdm=False)[0]) == facts(whole)


def test_a_branch_goes_on_behind_its_parent(llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=12, repetition_penalty=1.3)
    _, forked = llm.generate_branches(PROMPTS[0], params, [params], after=3)
    whole = forked.outputs[0]
    cut = CompletionOutput(token_ids=whole.token_ids[:5])
    (resumed,) = llm.resume(replace(forked, outputs=[cut]), use_tqdm=False)
    assert facts(resumed) == facts(forked)


@pytest.mark.parametrize("kind", RequestOutputKind)
def test_an_async_llm_streams_what_follows(llm: LLM, kind: RequestOutputKind) -> None:
    params = DRAWN.clone(output_kind=kind)
    whole = llm.generate(PROMPTS[0], DRAWN, use_tqdm=False)[0]
    output = cut_off(llm, DRAWN, 9)[0]
    assert output.info is not None
    given = replace(output, info=replace(output.info, sampling_params=params.clone()))

    async def resume() -> list[RequestOutput]:
        other = AsyncLLM(EngineArgs(**OPTIONS))
        try:
            return [each async for each in other.resume(given, "again")]
        finally:
            other.shutdown()

    found = asyncio.run(resume())
    assert {each.request_id for each in found} == {"again"}
    if kind is not RequestOutputKind.DELTA:
        assert facts(found[-1]) == facts(whole)
        return
    for index, one in enumerate(output.outputs):
        deltas = [each for outputs in found for each in outputs.outputs if each.index == index]
        assert one.text + "".join(each.text for each in deltas) == whole.outputs[index].text
        ids = [token_id for each in deltas for token_id in each.token_ids]
        assert one.token_ids + ids == whole.outputs[index].token_ids


def test_what_cannot_go_on_is_refused_by_name(llm: LLM) -> None:
    (output,) = cut_off(llm, DRAWN, 4)[:1]
    assert output.info is not None
    one = output.outputs[0]
    refused = {
        "output.info": replace(output, info=None),
        "output.prompt_token_ids": replace(output, prompt_token_ids=[]),
        "output.outputs": replace(output, outputs=[*output.outputs, CompletionOutput(index=2)]),
        "output.outputs[0].logprobs": replace(output, outputs=[replace(one, logprobs=[])]),
        "output.outputs[1].index": replace(output, outputs=[one, one]),
        "output.outputs[0].index": replace(output, outputs=[replace(one, index=2)]),
        "output.outputs[1].token_ids": replace(
            output, outputs=[output.outputs[1], replace(one, token_ids=[-1, 5, 5, 5])]
        ),
        "output.info.sampling_params.max_tokens": replace(
            output, info=replace(output.info, sampling_params=DRAWN.clone(max_tokens=10**6))
        ),
        "output.outputs[0].token_ids": replace(
            output, outputs=[replace(one, token_ids=[5] * 20, logprobs=one.logprobs * 5)]
        ),
        "output": replace(
            output,
            info=replace(output.info, sampling_params=DRAWN.clone(stop=(one.text.strip(),))),
        ),
    }
    for field, given in refused.items():
        with pytest.raises(InvalidRequestError) as caught:
            llm.resume([output, given], use_tqdm=False)
        assert caught.value.field == field
    assert not llm.llm_engine.has_unfinished_requests()
    other = replace(output, info=replace(output.info, model_fingerprint="another"))
    with pytest.raises(InvalidRequestError, match="another model's"):
        llm.resume(other)
