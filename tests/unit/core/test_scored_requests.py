"""Continuations scored by scheduler and engine, with a fake model that remembers the past."""

import pytest

from engine_service.core.request import Request
from engine_service.engine.llm_engine import LLMEngine
from engine_service.engine.score_requests import score_request
from folovllm.logprobs import PositionLogprobs
from folovllm.outputs import CompletionOutput
from folovllm.sampling_params import SamplingParams
from support.fakes.engine_factory import make_engine
from support.fakes.model_runner import expected_logprobs, num_scheduled_tokens
from support.integrity import check_integrity

PROMPT = list(range(1, 24))
CONTINUATIONS = [[30], [31, 32, 33, 34, 35, 36], [30], PROMPT, [31, 32]]


def score(
    engine: LLMEngine, name: str = "s", continuations: list[list[int]] = CONTINUATIONS
) -> list[list[PositionLogprobs]]:
    engine.add_scores(name, score_request(PROMPT, continuations, engine.info))
    found: dict[int, list[PositionLogprobs]] = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.request_id == name:
                assert output.finished() and not output.token_ids and output.index not in found
                found[output.index] = output.logprobs
        check_integrity(engine.scheduler)
    return [found[index] for index in range(len(continuations))]


def expected(continuations: list[list[int]] = CONTINUATIONS) -> list[list[PositionLogprobs]]:
    return [expected_logprobs([*PROMPT, *each], len(PROMPT), 0) for each in continuations]


@pytest.mark.parametrize("budget", [64, 7, 1])
@pytest.mark.parametrize("caching", [True, False])
def test_every_token_is_scored_once_however_it_is_chunked(budget: int, caching: bool) -> None:
    engine, _ = make_engine(
        max_num_batched_tokens=budget,
        max_num_seqs=min(budget, 4),
        enable_prefix_caching=caching,
    )
    assert score(engine) == expected()
    assert score(engine) == expected()  # now with all of it in the prefix cache


def test_the_prompt_is_computed_once() -> None:
    engine, runner = make_engine(block_size=4)
    continuations = [[40 + i] for i in range(10)]
    assert score(engine, continuations=continuations) == expected(continuations)
    # First the prompt; then, together, what is behind its five full blocks.
    assert [num_scheduled_tokens(step) for step in runner.steps] == [23, 9 * 3]
    assert not any(part.sample_indexes for step in runner.steps for part in step.scheduled)


def test_preemption_repeats_no_token() -> None:
    engine, _ = make_engine(num_blocks=16, max_num_batched_tokens=6, max_num_seqs=5)
    for i in range(3):
        engine.add_request(Request(str(i), [i], SamplingParams(max_tokens=40), seed=7, priority=-1))
    assert score(engine) == expected()


@pytest.mark.parametrize("num_steps", [0, 1, 2, 4])
def test_an_abort_frees_all_also_those_that_have_not_begun(num_steps: int) -> None:
    engine, _ = make_engine(max_num_batched_tokens=8, max_num_seqs=4)
    engine.add_scores("s", score_request(PROMPT, CONTINUATIONS, engine.info))
    outputs: list[CompletionOutput] = []
    for _ in range(num_steps):
        outputs += engine.step()
    outputs += engine.abort_request("s", [2])
    outputs += engine.abort_request("s")
    assert sorted(output.index for output in outputs) == [0, 1, 2, 3, 4]
    assert not engine.has_unfinished_requests()
    check_integrity(engine.scheduler)
    assert engine.load().num_free_kv_blocks == 64


def test_the_longest_that_fits_is_scored() -> None:
    engine, _ = make_engine(max_model_len=32, num_blocks=8)
    continuations = [list(range(50, 50 + 32 - len(PROMPT)))]
    assert score(engine, continuations=continuations) == expected(continuations)
