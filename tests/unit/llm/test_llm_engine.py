"""LLMEngine: requests that its caller steps, and what an output holds."""

import pytest

from folovllm import EngineArgs, InvalidRequestError, LLMEngine, RequestOutput, SamplingParams
from folovllm.vllm_names import RequestOutputKind

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
DELTA = RequestOutputKind.DELTA


@pytest.fixture(scope="module")
def engine() -> LLMEngine:
    args = EngineArgs(device="cpu", num_gpu_blocks_override=256, speculation="none")
    return LLMEngine.from_engine_args(args)


def run(engine: LLMEngine, params: SamplingParams, prompt: str = "Once") -> list[RequestOutput]:
    """All outputs of one request."""
    assert engine.add_request("a", prompt, params) == "a"
    assert engine.get_num_unfinished_requests() == 1
    outputs = []
    while engine.has_unfinished_requests():
        outputs += engine.step()
    assert engine.step() == []
    return outputs


def test_outputs_are_cumulative_deltas_or_the_last(engine: LLMEngine) -> None:
    whole = run(engine, GREEDY)
    assert [len(each.outputs[0].token_ids) for each in whole] == [1, 2, 3, 4, 5, 6]
    assert [each.finished for each in whole] == [False] * 5 + [True]
    assert all(each.prompt == "Once" and each.request_id == "a" for each in whole)
    deltas = run(engine, GREEDY.clone(output_kind=DELTA))
    assert [len(each.outputs[0].token_ids) for each in deltas] == [1] * 6
    text = "".join(each.outputs[0].text for each in deltas)
    assert text == whole[-1].outputs[0].text != ""
    (final,) = run(engine, GREEDY.clone(output_kind=RequestOutputKind.FINAL_ONLY))
    assert final.finished and final.outputs[0].text == text


def test_a_delta_is_the_last_only_when_all_have_ended(engine: LLMEngine) -> None:
    first = run(engine, GREEDY)[-1].outputs[0].token_ids
    stop = GREEDY.clone(n=3, temperature=1.0, seed=1, output_kind=DELTA, max_tokens=24)
    outputs = run(engine, stop.clone(stop_token_ids=[first[0], 11, 13]))
    assert [each.finished for each in outputs] == [False] * (len(outputs) - 1) + [True]
    ends = [index for each in outputs for index in map(_ended, each.outputs) if index is not None]
    assert sorted(ends) == [0, 1, 2]


def _ended(output: object) -> int | None:
    return output.index if output.finished() else None  # type: ignore[attr-defined]


def test_a_stop_string_ends_one_continuation_and_leaves_nothing(engine: LLMEngine) -> None:
    text = run(engine, GREEDY.clone(max_tokens=16))[-1].outputs[0].text
    word = text.split()[2]
    output = run(engine, GREEDY.clone(n=2, max_tokens=200, stop=[word]))[-1]
    assert [each.stop_reason for each in output.outputs] == [word, word]
    assert all(each.text == text[: text.index(word)] for each in output.outputs)
    assert engine.reset_prefix_cache()  # all KV is free


def test_an_aborted_request_is_gone(engine: LLMEngine) -> None:
    engine.add_request("a", "Once", GREEDY.clone(n=2))
    engine.add_request("b", "The", GREEDY)
    engine.add_request("c", "The", GREEDY)
    engine.step()
    with pytest.raises(InvalidRequestError, match="a is running already"):
        engine.add_request("a", "Once", GREEDY)
    engine.abort_request(["a", "unknown"])
    engine.abort_request("c")
    assert engine.get_num_unfinished_requests() == 1
    names = set()
    while engine.has_unfinished_requests():
        names |= {output.request_id for output in engine.step()}
    assert names == {"b"} and engine.reset_prefix_cache()


def test_without_parameters_the_models_defaults_apply(engine: LLMEngine) -> None:
    engine.add_request("a", {"prompt": "Once"})
    while engine.has_unfinished_requests():
        outputs = engine.step()
    expected = engine.default_sampling_params.max_tokens
    assert len(outputs[0].outputs[0].token_ids) <= (expected or 0)
    assert engine.get_tokenizer() is engine.tokenizer
