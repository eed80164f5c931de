"""The scheduler with a fake model: what runs when, and what is given back."""

import itertools

import pytest

from engine_service.core.request import Request, RequestStatus, Sequence
from engine_service.engine.llm_engine import LLMEngine
from folovllm.outputs import CompletionOutput, FinishReason, RequestOutput
from folovllm.sampling_params import SamplingParams
from support.fakes.engine_factory import make_engine, sequence_of
from support.fakes.matcher import FakeMatcher
from support.fakes.model_runner import expected_tokens, num_scheduled_tokens
from support.integrity import check_integrity


def add(
    engine: LLMEngine,
    name: str,
    prompt: list[int],
    priority: int = 0,
    salt: str = "",
    **params: object,
) -> Sequence:
    """Adds a request, and returns its first sequence."""
    request = Request(
        name, prompt, SamplingParams().clone(**params), seed=7, priority=priority, cache_salt=salt
    )
    engine.add_request(request)
    return sequence_of(engine, name)


def run(engine: LLMEngine) -> dict[str, RequestOutput]:
    """Steps to the end, checked after each step."""
    results: dict[str, RequestOutput] = {}
    while engine.has_unfinished_requests():
        join(results, engine.step())
        check_integrity(engine.scheduler)
    return results


def join(results: dict[str, RequestOutput], outputs: list[CompletionOutput]) -> None:
    for output in outputs:
        results.setdefault(output.request_id, RequestOutput()).add(output)


def tokens(result: RequestOutput, index: int = 0) -> list[int]:
    return result.outputs[index].token_ids


PROMPT = list(range(1, 11))


def test_all_full_blocks_before_the_last_token_come_from_the_cache() -> None:
    engine, _ = make_engine(block_size=4)
    for name in "ab":
        engine.add_request(Request(name, PROMPT[:9], SamplingParams(max_tokens=1)))
        result = run(engine)[name].outputs[0]
        assert result.token_ids == expected_tokens(PROMPT[:9], 1, seed=0)
    assert result.usage and result.usage.cached_tokens == 8


def test_one_request_from_prompt_to_length() -> None:
    engine, runner = make_engine()
    add(engine, "a", PROMPT, max_tokens=5)
    result = run(engine)["a"].outputs[0]
    assert result.token_ids == expected_tokens(PROMPT, 5, seed=7)
    assert result.finish_reason is FinishReason.LENGTH
    assert result.usage and result.usage.prompt_tokens == 10
    assert result.usage.completion_tokens == 5
    assert [num_scheduled_tokens(step) for step in runner.steps] == [10, 1, 1, 1, 1]


def test_a_long_prompt_is_computed_in_chunks_beside_decodes() -> None:
    engine, runner = make_engine(max_num_batched_tokens=16)
    add(engine, "short", [5, 6], max_tokens=20)
    engine.step()
    add(engine, "long", list(range(50)), max_tokens=3)
    results = run(engine)
    assert all(num_scheduled_tokens(step) <= 16 for step in runner.steps)
    # The one that decodes moves in every step while the long prompt catches up.
    for step in runner.steps[1:5]:
        assert [s.num_scheduled_tokens for s in step.scheduled] in ([1, 15], [1, 5], [1, 1])
    assert tokens(results["long"]) == expected_tokens(list(range(50)), 3, seed=7)


def test_priority_then_arrival() -> None:
    engine, runner = make_engine(max_num_seqs=1)
    for name, priority in (("late", 5), ("first", 0), ("second", 0), ("urgent", -1)):
        add(engine, name, PROMPT, priority=priority, max_tokens=1)
    order = list(
        itertools.chain.from_iterable([o.request_id for o in engine.step()] for _ in "1234")
    )
    assert order == ["urgent", "first", "second", "late"]


def test_preemption_takes_the_last_in_order_and_changes_no_token() -> None:
    engine, _ = make_engine(num_blocks=8, block_size=2, enable_prefix_caching=False)
    seqs = [add(engine, str(i), [i, i + 1, i + 2], max_tokens=10) for i in range(3)]
    results = run(engine)
    preemptions = [seq.num_preemptions for seq in seqs]
    assert preemptions[0] == 0 and sum(preemptions) > 0
    for i in range(3):
        assert tokens(results[str(i)]) == expected_tokens([i, i + 1, i + 2], 10, seed=7)
    metrics = results["2"].outputs[0].metrics
    assert metrics and metrics.preemptions == preemptions[2]


def test_a_common_prefix_is_computed_once() -> None:
    engine, runner = make_engine(block_size=4)
    add(engine, "a", PROMPT, max_tokens=1)
    first = run(engine)["a"]
    add(engine, "b", PROMPT, max_tokens=2)
    second = run(engine)["b"]
    assert first.info and first.info.cached_tokens == 0
    assert second.info and second.info.cached_tokens == 8
    assert num_scheduled_tokens(runner.steps[1]) == 2
    assert tokens(second) == expected_tokens(PROMPT, 2, seed=7)


def test_the_last_token_of_a_cached_prompt_is_computed_again() -> None:
    engine, runner = make_engine(block_size=5)
    for name in "ab":
        add(engine, name, PROMPT, max_tokens=3)
        result = run(engine)[name]
        assert tokens(result) == expected_tokens(PROMPT, 3, seed=7)
    assert result.info and result.info.cached_tokens == 5


def test_no_prefix_is_shared_over_a_cache_salt() -> None:
    engine, _ = make_engine()
    cached = []
    for number, salt in enumerate(("", "x", "x", "y")):
        add(engine, str(number), PROMPT, salt=salt, max_tokens=1)
        info = run(engine)[str(number)].info
        assert info
        cached.append(info.cached_tokens)
    assert cached == [0, 0, 8, 0]


def test_prefix_caching_can_be_off() -> None:
    engine, _ = make_engine(enable_prefix_caching=False)
    for name in "ab":
        add(engine, name, PROMPT, max_tokens=1)
        info = run(engine)[name].info
        assert info and info.cached_tokens == 0


@pytest.mark.parametrize("prompt_length", [7, 8, 9])
def test_n_sequences_share_the_prompt_and_go_their_own_ways(prompt_length: int) -> None:
    prompt = list(range(prompt_length))
    engine, runner = make_engine(block_size=4)
    add(engine, "a", prompt, n=3, max_tokens=6)
    engine.step()
    num_full = prompt_length // 4
    held = engine.load()
    partial = 3 if prompt_length % 4 else 0
    assert 64 - held.num_free_kv_blocks == num_full + partial
    results = run(engine)
    # `run` has not seen the first tokens.
    for index in range(3):
        assert tokens(results["a"], index) == expected_tokens(prompt, 6, seed=7, index=index)[1:]
    assert num_scheduled_tokens(runner.steps[0]) == prompt_length
    assert len(runner.steps[1].block_copies) == (2 if prompt_length % 4 else 0)


def test_n_over_max_num_seqs_runs_in_turns() -> None:
    engine, runner = make_engine(max_num_seqs=2)
    add(engine, "a", PROMPT, n=5, max_tokens=4)
    result = run(engine)["a"]
    for index in range(5):
        assert tokens(result, index) == expected_tokens(PROMPT, 4, seed=7, index=index)
    assert max(len(step.scheduled) for step in runner.steps) == 2


def test_the_end_of_sequence_token_ends_a_sequence() -> None:
    says = expected_tokens(PROMPT, 8, seed=7)
    engine, _ = make_engine(eos_token_ids=(says[3],))
    add(engine, "stops", PROMPT, max_tokens=8)
    add(engine, "goes on", PROMPT, max_tokens=8, ignore_eos=True)
    results = run(engine)
    stopped = results["stops"].outputs[0]
    assert stopped.token_ids == says[:4]
    assert (stopped.finish_reason, stopped.stop_reason) == (FinishReason.STOP, None)
    assert tokens(results["goes on"]) == says


def test_a_stop_token_ends_a_sequence_and_is_named() -> None:
    says = expected_tokens(PROMPT, 8, seed=7)
    engine, _ = make_engine()
    add(engine, "a", PROMPT, max_tokens=8, stop_token_ids=(says[2],))
    stopped = run(engine)["a"].outputs[0]
    assert (stopped.token_ids, stopped.stop_reason) == (says[:3], says[2])


def test_nothing_ends_a_sequence_before_min_tokens() -> None:
    says = expected_tokens(PROMPT, 8, seed=7)
    engine, runner = make_engine(eos_token_ids=(says[1],))
    add(engine, "a", PROMPT, max_tokens=8, min_tokens=4, stop_token_ids=(says[0],))
    result = run(engine)["a"].outputs[0]
    assert result.usage and result.usage.completion_tokens >= 4
    forbidden = [step.scheduled[0].forbidden_token_ids for step in runner.steps]
    assert all(set(ids) == {says[0], says[1]} for ids in forbidden[:4])
    assert not any(forbidden[4:])


def test_the_context_length_ends_a_sequence_without_max_tokens() -> None:
    engine, _ = make_engine(max_model_len=16)
    add(engine, "a", PROMPT, max_tokens=None)
    result = run(engine)["a"].outputs[0]
    assert len(result.token_ids) == 6 and result.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("num_steps", [0, 1, 2, 5])
@pytest.mark.parametrize("n", [1, 3])
def test_an_abort_frees_all_at_once_in_every_state(num_steps: int, n: int) -> None:
    engine, _ = make_engine(max_num_batched_tokens=16, num_blocks=16)
    add(engine, "a", list(range(30)), n=n, max_tokens=10)
    for _ in range(num_steps):
        engine.step()
    final = engine.abort_request("a")
    assert [(o.index, o.finish_reason) for o in final] == [(i, "abort") for i in range(n)]
    assert not engine.has_unfinished_requests()
    check_integrity(engine.scheduler)
    assert engine.load().num_free_kv_blocks == 16 and engine.load().num_queued_tokens == 0
    assert engine.abort_request("a") == []


@pytest.mark.parametrize("num_steps", [0, 1, 2, 4])
def test_single_sequences_of_a_request_can_be_aborted(num_steps: int) -> None:
    engine, _ = make_engine(max_num_batched_tokens=16)
    prompt = list(range(30))
    add(engine, "a", prompt, n=4, max_tokens=6)
    results: dict[str, RequestOutput] = {}
    for _ in range(num_steps):
        join(results, engine.step())
    join(results, engine.abort_request("a", [0, 2]))
    while engine.has_unfinished_requests():
        join(results, engine.step())
        check_integrity(engine.scheduler)
    reasons = [output.finish_reason for output in results["a"].outputs]
    assert reasons == ["abort", "length", "abort", "length"]
    for index in (1, 3):
        assert tokens(results["a"], index) == expected_tokens(prompt, 6, seed=7, index=index)
    assert results["a"].info is not None


def test_an_aborted_request_in_the_queue_never_runs() -> None:
    engine, runner = make_engine(max_num_seqs=1)
    running = add(engine, "a", PROMPT, max_tokens=3)
    queued = add(engine, "b", PROMPT, max_tokens=3)
    engine.step()
    assert running.status.name == "RUNNING"
    assert queued.status is RequestStatus.WAITING
    (final,) = engine.abort_request("b")
    assert final.usage and final.usage.cached_tokens == 0
    run(engine)
    assert {s.seq_id for step in runner.steps for s in step.scheduled} == {0}


def test_a_pool_too_small_for_all_still_finishes_all_of_n() -> None:
    engine, _ = make_engine(num_blocks=6, block_size=2, max_num_batched_tokens=16)
    add(engine, "a", [1, 2, 3], n=6, max_tokens=9)
    result = run(engine)["a"]
    for index in range(6):
        assert tokens(result, index) == expected_tokens([1, 2, 3], 9, seed=7, index=index)


def test_metrics_add_up() -> None:
    now = itertools.count(100.0)
    engine, _ = make_engine(clock=lambda: next(now))
    request = Request("a", PROMPT, SamplingParams(max_tokens=2), arrival_time=90.0)
    engine.add_request(request)
    metrics = run(engine)["a"].outputs[0].metrics
    assert metrics and metrics.queue == 11.0  # the clock is read when it is added, too
    assert metrics.time_to_first_token == metrics.queue + metrics.prefill
    assert metrics.decode > 0


@pytest.mark.parametrize("ends_with_eos", [False, True])
def test_a_complete_grammar_ends_the_output(ends_with_eos: bool) -> None:
    params = SamplingParams(max_tokens=9, ignore_eos=True)
    engine, _ = make_engine()
    engine.add_request(Request("a", PROMPT, params, seed=7), FakeMatcher(3))
    result = run(engine)["a"].outputs[0]
    if ends_with_eos:
        engine, _ = make_engine(eos_token_ids=(result.token_ids[-1],))
        engine.add_request(Request("a", PROMPT, params, seed=7), FakeMatcher(3))
        result = run(engine)["a"].outputs[0]
    assert len(result.token_ids) == 3 and result.finish_reason is FinishReason.STOP
    assert result.output_complete != ends_with_eos and result.stop_reason is None
