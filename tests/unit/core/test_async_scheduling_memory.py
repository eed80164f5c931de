"""One step ahead: blocks and tokens where a sequence ends, forks or gives way meanwhile."""

import pytest

from engine_service.core.request import Branch
from folovllm.outputs import FinishReason
from folovllm.sampling_params import SamplingParams
from support.builders.overlapping_runs import (
    PROMPT,
    Results,
    add,
    join,
    launched_ids,
    run,
    says,
    tokens,
)
from support.fakes.engine_factory import make_overlapping_engine
from support.fakes.model_runner import expected_tokens
from support.integrity import check_integrity


def test_what_is_computed_after_a_stop_is_dropped_and_not_billed() -> None:
    engine, runner = make_overlapping_engine(eos_token_ids=(says(8)[3],))
    add(engine, "a", max_tokens=8, logprobs=1)
    add(engine, "b", max_tokens=8, ignore_eos=True)
    results: Results = {}
    for _ in range(4):
        join(results, engine.step())
    # The fifth step is in flight, with the token after the end.
    assert len(runner.launched[4].scheduled) == 2
    stopped = results["a"].outputs[0]
    assert stopped.finish_reason is FinishReason.STOP
    assert stopped.token_ids == says(4) and len(stopped.logprobs) == 4
    assert stopped.usage and stopped.usage.completion_tokens == 4
    assert engine.load().num_running == 1
    outputs = engine.step()
    assert [output.request_id for output in outputs] == ["b"]
    join(results, outputs)
    assert tokens(run(engine, results)["b"]) == says(8)
    assert launched_ids(runner)[5:] == [[1]] * 3


def test_what_is_computed_after_a_stop_is_not_in_the_prefix_cache() -> None:
    engine, runner = make_overlapping_engine(block_size=2, eos_token_ids=(says(3)[1],))
    add(engine, "a", max_tokens=8)
    first = run(engine)["a"]
    # The dropped step wrote the KV of the last token, and filled a block with it.
    assert len(runner.launched) == 3
    prompt = [*PROMPT, *tokens(first)]
    add(engine, "b", [*prompt, 5], max_tokens=1, ignore_eos=True)
    second = run(engine)["b"]
    assert second.info and second.info.cached_tokens == 10
    assert tokens(second) == says(1, [*prompt, 5])


def test_a_step_in_flight_is_drained_when_all_has_ended() -> None:
    engine, runner = make_overlapping_engine(eos_token_ids=(says(8)[3],))
    add(engine, "a", max_tokens=8)
    for _ in range(4):
        outputs = engine.step()
    assert outputs[0].finished()
    assert engine.has_unfinished_requests()  # there is a step to read
    assert not engine.scheduler.has_unfinished_requests()
    check_integrity(engine.scheduler)
    assert engine.step() == []
    assert not engine.has_unfinished_requests()
    assert runner.events[-1] == ("result", 4)


def test_blocks_freed_at_a_stop_are_used_while_the_dropped_token_is_computed() -> None:
    engine, runner = make_overlapping_engine(
        num_blocks=4, block_size=4, enable_prefix_caching=False, eos_token_ids=(says(8)[3],)
    )
    add(engine, "a", max_tokens=6)
    add(engine, "b", [8] * 9, max_tokens=7, ignore_eos=True)
    results: Results = {}
    for _ in range(5):
        join(results, engine.step())
    assert runner.events[-2:] == [("launch", 5), ("result", 4)]
    assert launched_ids(runner)[4:6] == [[0], [1]]
    run(engine, results)
    assert tokens(results["a"]) == says(4)
    assert tokens(results["b"]) == says(7, [8] * 9)


@pytest.mark.parametrize("index", [0, 1])
def test_one_of_n_is_aborted_while_the_first_tokens_are_in_flight(index: int) -> None:
    engine, _ = make_overlapping_engine(max_num_batched_tokens=8, max_num_seqs=4)
    add(engine, "a", n=3, max_tokens=4)
    results: Results = {}
    join(results, engine.step())  # the second step, which draws, is in flight
    join(results, engine.abort_request("a", [index]))
    result = run(engine, results)["a"]
    for each in range(3):
        assert tokens(result, each) == ([] if each == index else says(4, index=each))


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("budget", [64, 4])
def test_an_abort_frees_all_at_once_and_leaves_a_step_to_drain(num_steps: int, budget: int) -> None:
    engine, _ = make_overlapping_engine(max_num_batched_tokens=budget, max_num_seqs=4)
    add(engine, "a", max_tokens=9)
    for _ in range(num_steps):
        engine.step()
    (output,) = engine.abort_request("a")
    assert output.finish_reason is FinishReason.ABORT
    assert engine.load().num_free_kv_blocks == 64 and engine.load().num_running == 0
    check_integrity(engine.scheduler)
    add(engine, "b", max_tokens=3)  # takes the blocks while the step in flight writes to them
    assert tokens(run(engine)["b"]) == says(3)


@pytest.mark.parametrize("num_steps", range(1, 7))
@pytest.mark.parametrize("block_size", [1, 2, 4])
def test_branches_have_the_known_tokens_of_their_parent(num_steps: int, block_size: int) -> None:
    engine, runner = make_overlapping_engine(block_size=block_size)
    parent = add(engine, "a", max_tokens=9)
    results: Results = {}
    for _ in range(num_steps):
        join(results, engine.step())
    assert len(runner.launched) == num_steps + 1
    had = [*PROMPT, *says(num_steps)]
    assert parent.token_ids == had
    branches = [Branch(SamplingParams(max_tokens=4), seed) for seed in (3, 4)]
    engine.fork_request("a", 0, "f", branches)
    check_integrity(engine.scheduler)
    run(engine, results)
    assert tokens(results["a"]) == says(9)
    for index, seed in enumerate((3, 4)):
        assert tokens(results["f"], index) == expected_tokens(had, 4, seed=seed)
    info = results["f"].info
    assert info and info.prompt_tokens == len(had) and info.cached_tokens == len(had) - 1


def test_a_pool_that_runs_out_is_read_first_and_then_preempts() -> None:
    engine, runner = make_overlapping_engine(
        num_blocks=8, block_size=2, enable_prefix_caching=False
    )
    seqs = [add(engine, str(i), [i, i + 1, i + 2], max_tokens=10) for i in range(3)]
    num_preemptions, synchronous = 0, 0
    results: Results = {}
    while engine.has_unfinished_requests():
        num_events = len(runner.events)
        join(results, engine.step())
        check_integrity(engine.scheduler)
        kinds = [kind for kind, _ in runner.events[num_events:]]
        if sum(seq.num_preemptions for seq in seqs) > num_preemptions:
            num_preemptions = sum(seq.num_preemptions for seq in seqs)
            # Nothing was in flight, so a step had to be launched before one could be read.
            assert kinds[0] == "launch" and runner.events[num_events - 1][0] == "result"
            assert len([kind for kind, _ in runner.events[:num_events]]) % 2 == 0
        synchronous += kinds == ["result"]
    assert num_preemptions > 0 and synchronous > 0 and seqs[0].num_preemptions == 0
    for i in range(3):
        assert tokens(results[str(i)]) == says(10, [i, i + 1, i + 2])


def test_blocks_allocated_for_a_step_that_is_not_made_are_used_by_the_next() -> None:
    # After its prompt each has two full blocks, and one block is left.
    engine, runner = make_overlapping_engine(
        num_blocks=5, block_size=2, enable_prefix_caching=False
    )
    add(engine, "a", [1, 2, 3, 4], max_tokens=3)
    add(engine, "b", [5, 6, 7, 8], max_tokens=3)
    engine.step()
    assert runner.events == [("launch", 0), ("result", 0)]
    assert engine.load().num_free_kv_blocks == 0
    check_integrity(engine.scheduler)
    engine.step()
    assert launched_ids(runner)[1] == [0]
    assert runner.launched[1].scheduled[0].block_table[-1] == 4
    run(engine)
