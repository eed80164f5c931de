"""Log-probabilities through scheduler and engine, with a fake model that remembers the past."""

import pytest

from engine_service.core.request import Request
from engine_service.engine.llm_engine import LLMEngine
from folovllm.logprobs import Logprob, PositionLogprobs
from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.sampling_params import SamplingParams
from support.fakes.engine_factory import make_engine
from support.fakes.model_runner import expected_logprobs, expected_tokens
from support.integrity import check_integrity

PROMPT = list(range(1, 24))
ASKING = SamplingParams(max_tokens=6, logprobs=2, prompt_logprobs=1)


def run(engine: LLMEngine, outputs: list[CompletionOutput] | None = None) -> RequestOutput:
    result = RequestOutput.join(outputs or [])
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.request_id == "a":
                assert len(output.logprobs) == len(output.token_ids)
                result.add(output)
        check_integrity(engine.scheduler)
    return result


def add(
    engine: LLMEngine,
    name: str = "a",
    params: SamplingParams = ASKING,
    prompt: list[int] = PROMPT,
    priority: int = 0,
) -> Request:
    request = Request(name, prompt, params, seed=7, priority=priority)
    engine.add_request(request)
    return request


def assert_prompt(result: RequestOutput, prompt: list[int] = PROMPT, num_tops: int = 1) -> None:
    assert result.info is not None
    first, *others = result.info.prompt_logprobs
    assert first == PositionLogprobs(Logprob(prompt[0], None, None))
    assert others == expected_logprobs(prompt, 1, num_tops)


def assert_output(result: RequestOutput, index: int = 0) -> None:
    output = result.outputs[index]
    assert output.token_ids == expected_tokens(PROMPT, 6, seed=7, index=index)
    expected = expected_logprobs([*PROMPT, *output.token_ids], len(PROMPT), 2)
    assert output.logprobs == expected
    total = sum(position.token.logprob or 0.0 for position in expected)
    assert output.cumulative_logprob == pytest.approx(total)


@pytest.mark.parametrize("budget", [64, 16, 5, 1])
@pytest.mark.parametrize("n", [1, 3])
def test_every_position_comes_once_however_the_prompt_is_chunked(budget: int, n: int) -> None:
    engine, _ = make_engine(max_num_batched_tokens=budget, max_num_seqs=min(budget, 4))
    add(engine, params=ASKING.clone(n=n))
    result = run(engine)
    assert_prompt(result)
    for index in range(n):
        assert_output(result, index)


def test_a_prompt_that_is_cached_is_computed_for_its_logprobs() -> None:
    engine, runner = make_engine()
    add(engine, "before", SamplingParams(max_tokens=1))
    run_before = [output for output in engine.step() if output.request_id == "before"]
    assert run_before[0].finished() and not run_before[0].logprobs
    add(engine)
    result = run(engine)
    assert_prompt(result)
    assert_output(result)
    assert result.info and result.info.cached_tokens == 0
    # The log-probabilities of the output alone need no whole prompt; it was cached again.
    add(engine, params=ASKING.clone(prompt_logprobs=None))
    result = run(engine)
    assert_output(result)
    assert result.info and result.info.cached_tokens == 20
    assert result.info.prompt_logprobs == ()


def test_preemption_amid_the_prompt_repeats_no_position() -> None:
    engine, runner = make_engine(num_blocks=8, max_num_batched_tokens=4, max_num_seqs=4)
    add(engine, "b", SamplingParams(max_tokens=20), [5] * 4)
    engine.step()
    add(engine, params=ASKING.clone(n=2), priority=1)
    result = run(engine)
    parts = [s for step in runner.steps for s in step.scheduled if s.num_prompt_tokens == 23]
    assert sum(part.num_computed_tokens == 0 for part in parts) > 1, "it was to be preempted"
    scored = [position for part in parts for position in part.prompt_logprob_positions]
    assert scored == list(range(22)) and parts[0].prompt_logprob_positions == range(3)
    assert_prompt(result)
    assert_output(result, 0)
    assert_output(result, 1)


def test_another_sequence_goes_on_where_the_first_was_aborted() -> None:
    engine, _ = make_engine(max_num_batched_tokens=8, max_num_seqs=4)
    add(engine, params=ASKING.clone(n=2))
    outputs = engine.step() + engine.abort_request("a", [0])
    result = run(engine, outputs)
    # The one message that tells about the request came before its prompt was computed.
    assert result.info and result.info.prompt_logprobs == ()
    assert_output(result, 1)


def test_a_prompt_of_one_token_has_no_logprob() -> None:
    engine, _ = make_engine()
    add(engine, prompt=[4])
    assert_prompt(run(engine), [4])


def test_who_does_not_ask_gets_none() -> None:
    engine, _ = make_engine()
    add(engine, params=SamplingParams(max_tokens=3))
    while engine.has_unfinished_requests():
        for output in engine.step():
            assert output.logprobs == [] and output.cumulative_logprob is None
            assert output.info is None or output.info.prompt_logprobs == ()
