"""One step ahead: what is launched before the last step is read, and what is not."""

import pytest
from fake_engine_factory import make_engine, make_overlapping_engine
from fake_matcher import FakeMatcher
from fake_model_runner import expected_tokens
from overlapping_fake_runner import OverlappingFakeModelRunner

from engine_service.core.fork import Branch, Fork
from engine_service.core.outputs import PENDING_TOKEN, OverlappingRunner
from engine_service.core.request import Request
from engine_service.llm_engine import LLMEngine
from folovllm.outputs import CompletionOutput, FinishReason, RequestOutput
from folovllm.sampling_params import SamplingParams

PROMPT = list(range(1, 11))
Results = dict[str, RequestOutput]


def add(
    engine: LLMEngine,
    name: str,
    prompt: list[int] = PROMPT,
    matcher: FakeMatcher | None = None,
    **params: object,
) -> Request:
    request = Request(name, prompt, SamplingParams().clone(**params), seed=7, matcher=matcher)
    engine.add_request(request)
    return request


def join(results: Results, outputs: list[CompletionOutput]) -> None:
    for output in outputs:
        results.setdefault(output.request_id, RequestOutput()).add(output)


def run(engine: LLMEngine, results: Results | None = None) -> Results:
    """Steps until nothing is left, not even a step in flight, with the books checked after each."""
    results = {} if results is None else results
    while engine.has_unfinished_requests():
        join(results, engine.step())
        engine.scheduler.check_integrity()
    assert engine.load().num_free_kv_blocks == engine.info.num_kv_blocks
    return results


def says(num_tokens: int, prompt: list[int] = PROMPT, index: int = 0) -> list[int]:
    return expected_tokens(prompt, num_tokens, seed=7, index=index)


def tokens(result: RequestOutput, index: int = 0) -> list[int]:
    return result.outputs[index].token_ids


def launched_ids(runner: OverlappingFakeModelRunner) -> list[list[int]]:
    """The seq_ids of each step."""
    return [[part.seq_id for part in step.scheduled] for step in runner.launched]


def test_a_step_is_launched_before_the_last_one_is_read() -> None:
    engine, runner = make_overlapping_engine()
    add(engine, "a", max_tokens=4)
    assert tokens(run(engine)["a"]) == says(4)
    order = [("launch", 0)]
    for number in range(3):
        order += [("launch", number + 1), ("result", number)]
    assert runner.events == [*order, ("result", 3)]
    assert [list(step.scheduled[0].token_ids) for step in runner.launched[1:]] == [
        [PENDING_TOKEN]
    ] * 3


def test_a_runner_that_does_not_overlap_is_read_at_once() -> None:
    engine, runner = make_engine(speculation="none")
    assert not isinstance(runner, OverlappingRunner)
    add(engine, "a", max_tokens=3)
    for number in range(3):
        (output,) = engine.step()
        assert output.token_ids == [says(3)[number]]
    assert not engine.has_unfinished_requests()


def test_the_chunks_of_a_prompt_follow_each_other_at_once() -> None:
    engine, runner = make_overlapping_engine(max_num_batched_tokens=4, max_num_seqs=4)
    add(engine, "a", max_tokens=2, prompt_logprobs=0)
    result = run(engine)["a"]
    assert tokens(result) == says(2)
    assert result.info and len(result.info.prompt_logprobs) == len(PROMPT)
    assert [step.num_scheduled_tokens for step in runner.launched] == [4, 4, 2, 1]
    assert runner.events[:2] == [("launch", 0), ("launch", 1)]


def test_a_request_that_comes_while_a_step_is_in_flight_starts_at_once() -> None:
    engine, runner = make_overlapping_engine()
    add(engine, "a", max_tokens=9)
    engine.step()
    add(engine, "b", [5, 6], max_tokens=2)
    engine.step()
    assert [part.num_scheduled_tokens for part in runner.launched[2].scheduled] == [1, 2]
    results = run(engine)
    assert tokens(results["b"])[-1:] == says(2, [5, 6])[-1:]


@pytest.mark.parametrize("limit", ["max_tokens", "max_model_len"])
def test_nothing_is_computed_past_an_end_that_is_certain(limit: str) -> None:
    engine, runner = make_overlapping_engine(max_model_len=14 if limit == "max_model_len" else 128)
    add(engine, "a", max_tokens=4 if limit == "max_tokens" else None)
    assert tokens(run(engine)["a"]) == says(4)
    assert len(runner.launched) == 4


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
    assert outputs[0].finished
    assert engine.has_unfinished_requests()  # there is a step to read
    assert not engine.scheduler.has_unfinished_requests()
    engine.scheduler.check_integrity()
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


@pytest.mark.parametrize(
    "params",
    [
        {"presence_penalty": 1.0},
        {"frequency_penalty": 1.0},
        {"repetition_penalty": 1.5},
        {"bad_words_token_ids": ((1, 2),)},
    ],
)
def test_what_looks_back_waits_for_its_tokens_while_others_go_on(params: dict[str, object]) -> None:
    engine, runner = make_overlapping_engine()
    for number in range(2):
        add(engine, str(number), max_tokens=6)
    add(engine, "2", max_tokens=3, **params)
    run(engine)
    assert launched_ids(runner) == [[0, 1, 2], [0, 1], [0, 1, 2], [0, 1], [0, 1, 2], [0, 1]]


def test_what_follows_a_grammar_waits_for_its_tokens_while_others_go_on() -> None:
    engine, runner = make_overlapping_engine()
    add(engine, "a", max_tokens=9, matcher=FakeMatcher(3, then_free=True))
    for name in "bc":
        add(engine, name, max_tokens=9)
    results = run(engine)
    # Once the grammar binds nothing any more, no one waits.
    assert launched_ids(runner)[:6] == [
        [0, 1, 2],
        [1, 2],
        [0, 1, 2],
        [1, 2],
        [0, 1, 2],
        [1, 2],
    ]
    assert launched_ids(runner)[6:] == [[0, 1, 2]] * 3 + [[0]] * 3
    assert tokens(results["b"]) == tokens(results["c"]) == says(9)


def test_where_most_would_sit_out_the_step_is_read_before_the_next() -> None:
    engine, runner = make_overlapping_engine()
    for name in "ab":
        add(engine, name, max_tokens=5, matcher=FakeMatcher(9))
    for name in "cd":
        add(engine, name, max_tokens=5)
    run(engine)
    assert launched_ids(runner) == [[0, 1, 2, 3]] * 5
    order = [(kind, number) for number in range(5) for kind in ("launch", "result")]
    assert runner.events == order


def test_one_forbidden_id_and_min_tokens_need_no_known_tokens() -> None:
    first, second, *_ = says(6)
    engine, runner = make_overlapping_engine(eos_token_ids=(second,))
    params = {"stop_token_ids": (first,), "bad_words_token_ids": ((17,),)}
    add(engine, "a", max_tokens=6, min_tokens=4, **params)
    run(engine)
    forbidden = [set(step.scheduled[0].forbidden_token_ids) for step in runner.launched]
    assert forbidden == [{first, second, 17}] * 4 + [{17}] * 2
    assert runner.events[:3] == [("launch", 0), ("launch", 1), ("result", 0)]


def test_n_sequences_fork_once_the_first_tokens_are_read() -> None:
    engine, runner = make_overlapping_engine(max_num_batched_tokens=8, max_num_seqs=4)
    add(engine, "a", n=3, max_tokens=4)
    result = run(engine)["a"]
    for index in range(3):
        assert tokens(result, index) == says(4, index=index)
    assert launched_ids(runner) == [[0], [0], [0, 1, 2], [0, 1, 2], [0, 1, 2]]
    kinds = [kind for kind, _ in runner.events]
    assert kinds[:5] == ["launch", "launch", "result", "result", "launch"]


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
    engine.scheduler.check_integrity()
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
    assert parent.get_seqs()[0].token_ids == had
    branches = [Branch(SamplingParams(max_tokens=4), seed) for seed in (3, 4)]
    engine.fork_request(Fork("a", 0, "f", branches))
    engine.scheduler.check_integrity()
    run(engine, results)
    assert tokens(results["a"]) == says(9)
    for place, seed in enumerate((3, 4)):
        assert tokens(results["f"], place) == expected_tokens(had, 4, seed=seed)
    info = results["f"].info
    assert info and info.prompt_tokens == len(had) and info.cached_tokens == len(had) - 1


def test_a_pool_that_runs_out_is_read_first_and_then_preempts() -> None:
    engine, runner = make_overlapping_engine(
        num_blocks=8, block_size=2, enable_prefix_caching=False
    )
    requests = [add(engine, str(i), [i, i + 1, i + 2], max_tokens=10) for i in range(3)]
    seqs = [request.get_seqs()[0] for request in requests]
    num_preemptions, synchronous = 0, 0
    results: Results = {}
    while engine.has_unfinished_requests():
        num_events = len(runner.events)
        join(results, engine.step())
        engine.scheduler.check_integrity()
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
    engine.scheduler.check_integrity()
    engine.step()
    assert launched_ids(runner)[1] == [0]
    assert runner.launched[1].scheduled[0].block_table[-1] == 4
    run(engine)


def test_a_failing_launch_or_result_ends_the_step() -> None:
    for failure in ("failure", "launch_failure"):
        engine, runner = make_overlapping_engine()
        add(engine, "a", max_tokens=9)
        engine.step()
        setattr(runner, failure, RuntimeError("the device is gone"))
        with pytest.raises(RuntimeError, match="the device is gone"):
            engine.step()


def test_nothing_is_launched_ahead_where_tokens_are_drafted() -> None:
    runner = OverlappingFakeModelRunner(4, 1)
    engine, _ = make_engine(runner=runner, vocab_size=1, speculation="ngram")
    add(engine, "a", [0] * 6, max_tokens=20)
    assert tokens(run(engine)["a"]) == [0] * 20
    assert any(step.scheduled[0].draft_token_ids for step in runner.launched)
    kinds = [kind for kind, _ in runner.events]
    assert kinds == ["launch", "result"] * (len(kinds) // 2)


def test_decodes_go_ahead_of_a_prompt_that_came_before_them() -> None:
    engine, runner = make_overlapping_engine(max_num_batched_tokens=8, max_num_seqs=4)
    add(engine, "a", [5, 6], max_tokens=20)
    engine.step()
    add(engine, "long", list(range(40)), max_tokens=1)
    engine.step()
    engine.fork_request(Fork("a", 0, "f", [Branch(SamplingParams(max_tokens=9), 3)]))
    run(engine)
    for step in runner.launched[3:7]:
        assert [part.num_scheduled_tokens for part in step.scheduled] == [1, 1, 6]
