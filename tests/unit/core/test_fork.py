"""Branches of running requests, with a fake model: every token right, every block accounted for."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_service.core.request import Branch, Request, RequestStatus, Sequence
from engine_service.engine.llm_engine import LLMEngine
from folovllm.errors import InvalidRequestError, NotFoundError
from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.sampling_params import SamplingParams
from support.fakes.engine_factory import make_engine, sequence_of
from support.fakes.model_runner import SeenTokens, expected_tokens, num_scheduled_tokens
from support.integrity import check_integrity

PROMPT = list(range(1, 24))
Results = dict[str, RequestOutput]


def add(engine: LLMEngine, name: str, prompt: list[int], **params: object) -> Sequence:
    """Adds a request, and returns its first sequence."""
    engine.add_request(Request(name, prompt, SamplingParams().clone(**params), seed=7))
    return sequence_of(engine, name)


def fork(
    engine: LLMEngine, parent: str, seeds: list[int], index: int = 0, name: str = "f", **params: int
) -> None:
    branches = [Branch(SamplingParams().clone(**params), seed) for seed in seeds]
    engine.fork_request(parent, index, name, branches)


def join(results: Results, outputs: list[CompletionOutput]) -> None:
    for output in outputs:
        results.setdefault(output.request_id, RequestOutput()).add(output)


def run(engine: LLMEngine, results: Results | None = None) -> Results:
    results = {} if results is None else results
    while engine.has_unfinished_requests():
        join(results, engine.step())
        check_integrity(engine.scheduler)
    return results


def says(prompt: list[int], num_tokens: int, seed: int = 7, index: int = 0) -> list[int]:
    return expected_tokens(prompt, num_tokens, seed=seed, index=index)


@pytest.mark.parametrize("num_steps", range(9))
@pytest.mark.parametrize("budget", [64, 8])
def test_branches_go_on_from_every_state_of_their_parent(num_steps: int, budget: int) -> None:
    engine, _ = make_engine(max_num_batched_tokens=budget, max_num_seqs=8)
    parent = add(engine, "a", PROMPT, max_tokens=9)
    results: Results = {}
    for _ in range(num_steps):
        join(results, engine.step())
    had = list(parent.token_ids)
    fork(engine, "a", [3, 4, 3], max_tokens=5)
    check_integrity(engine.scheduler)
    run(engine, results)
    assert results["a"].outputs[0].token_ids == says(PROMPT, 9)
    branches = results["f"].outputs
    assert [branch.token_ids for branch in branches] == [says(had, 5, seed) for seed in (3, 4, 3)]
    for branch in branches:
        assert branch.info is not None and branch.usage is not None
        assert branch.info.prompt_tokens == branch.usage.prompt_tokens == len(had)
        assert list(branch.info.parent_output_token_ids) == had[len(PROMPT) :]
        assert branch.usage.completion_tokens == 5


def test_running_branches_share_all_full_blocks_and_copy_the_last() -> None:
    engine, runner = make_engine(block_size=4)
    add(engine, "a", PROMPT, max_tokens=20)
    for _ in range(4):
        engine.step()
    # 26 tokens with KV, in 7 blocks.
    assert 64 - engine.load().num_free_kv_blocks == 7
    fork(engine, "a", [1, 2], max_tokens=9)
    assert 64 - engine.load().num_free_kv_blocks == 9
    outputs = engine.step()
    assert len(runner.steps[-1].block_copies) == 2
    assert num_scheduled_tokens(runner.steps[-1]) == 3
    infos = [output.info for output in outputs if output.request_id == "f"]
    assert [info.cached_tokens for info in infos if info] == [26, 26]


def test_a_branch_of_a_preempted_parent_is_computed_again() -> None:
    engine, _ = make_engine(num_blocks=8, block_size=2, enable_prefix_caching=False)
    seqs = [add(engine, str(i), [i, i + 1, i + 2], max_tokens=10) for i in range(3)]
    results: Results = {}
    parent = seqs[2]
    while parent.status is not RequestStatus.PREEMPTED:
        join(results, engine.step())
    had = list(parent.token_ids)
    fork(engine, "2", [5, 6], max_tokens=4)
    run(engine, results)
    assert [b.token_ids for b in results["f"].outputs] == [says(had, 4, seed) for seed in (5, 6)]
    assert results["2"].outputs[0].token_ids == says([2, 3, 4], 10)


def test_without_a_place_or_a_block_branches_queue() -> None:
    engine, _ = make_engine(num_blocks=6, block_size=4, max_num_seqs=2)
    add(engine, "a", PROMPT[:10], max_tokens=9)
    results: Results = {}
    for _ in range(2):
        join(results, engine.step())
    had = [*PROMPT[:10], *says(PROMPT[:10], 2)]
    fork(engine, "a", [1, 2, 3, 4], max_tokens=6)
    assert engine.load().num_waiting == 3
    run(engine, results)
    assert [b.token_ids for b in results["f"].outputs] == [says(had, 6, s) for s in (1, 2, 3, 4)]


def test_a_branch_can_be_branched_and_one_of_n_too() -> None:
    engine, _ = make_engine()
    add(engine, "a", PROMPT, n=3, max_tokens=20)
    results: Results = {}
    for _ in range(3):
        join(results, engine.step())
    fork(engine, "a", [1, 2], index=2, max_tokens=9)
    for _ in range(4):
        join(results, engine.step())
    fork(engine, "f", [8], index=1, name="g", max_tokens=5)
    run(engine, results)
    first = [*PROMPT, *says(PROMPT, 3, index=2)]
    second = [*first, *says(first, 4, 2)]
    assert results["f"].outputs[0].token_ids == says(first, 9, 1)
    assert results["g"].outputs[0].token_ids == says(second, 5, 8)
    info = results["g"].outputs[0].info
    assert info and list(info.parent_output_token_ids) == second[len(PROMPT) :]


def test_branches_outlive_their_parent_and_leave_nothing() -> None:
    engine, _ = make_engine()
    add(engine, "a", PROMPT, max_tokens=9)
    for _ in range(2):
        engine.step()
    fork(engine, "a", [1, 2, 3], max_tokens=8)
    engine.abort_request("a")  # before the last block is copied
    check_integrity(engine.scheduler)
    results: Results = {}
    join(results, engine.abort_request("f", [1]))
    join(results, engine.step())
    run(engine, results)
    had = [*PROMPT, *says(PROMPT, 2)]
    reasons = [branch.finish_reason for branch in results["f"].outputs]
    assert reasons == ["length", "abort", "length"]
    assert results["f"].outputs[2].token_ids == says(had, 8, 3)
    assert engine.load().num_free_kv_blocks == 64
    assert engine.abort_request("f") == []


@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_an_abort_ends_all_branches_at_once(num_steps: int) -> None:
    engine, _ = make_engine(max_num_seqs=3)
    add(engine, "a", PROMPT, max_tokens=9)
    engine.step()
    fork(engine, "a", [1, 2, 3, 4], max_tokens=8)
    for _ in range(num_steps):
        engine.step()
    assert {output.index for output in engine.abort_request("f")} == {0, 1, 2, 3}
    check_integrity(engine.scheduler)
    result = run(engine)
    assert result["a"].outputs[0].finished()


@pytest.mark.parametrize(("length", "share"), [(60, 12), (17, 2)])
def test_branches_decode_before_a_prompt_that_is_still_computed(length: int, share: int) -> None:
    engine, runner = make_engine(max_num_batched_tokens=16)
    add(engine, "a", [1, 2, 3], max_tokens=9)
    engine.step()
    add(engine, "long", list(range(length)), max_tokens=1)
    engine.step()
    fork(engine, "a", [1, 2, 3], max_tokens=3)
    engine.step()
    assert [part.num_scheduled_tokens for part in runner.steps[-1].scheduled] == [1, 1, 1, 1, share]


def test_bad_words_see_the_parents_output() -> None:
    engine, _ = make_engine()
    add(engine, "a", PROMPT, max_tokens=9)
    for _ in range(3):
        engine.step()
    *_, last = had = [*PROMPT, *says(PROMPT, 3)]
    would = says(had, 1, 1)[0]
    params = SamplingParams(max_tokens=2, bad_words_token_ids=((last, would),))
    engine.fork_request("a", 0, "f", [Branch(params, 1)])
    assert run(engine)["f"].outputs[0].token_ids[0] == (would + 1) % 1000


def test_what_does_not_run_is_not_found_and_what_is_too_long_refused() -> None:
    engine, _ = make_engine(max_model_len=40)
    add(engine, "a", PROMPT, max_tokens=5)
    engine.step()
    for name, index in (("b", 0), ("a", 1)):
        with pytest.raises(NotFoundError, match=name):
            fork(engine, name, [1], index=index)
    with pytest.raises(InvalidRequestError) as refused:
        fork(engine, "a", [1], max_tokens=17)
    assert refused.value.field == "branches[0].max_tokens"
    run(engine)
    with pytest.raises(NotFoundError):
        fork(engine, "a", [1])
    assert not engine.has_unfinished_requests()


@dataclass(frozen=True)
class Moment:
    """What happens at one step: a request comes, one is branched, or one is aborted."""

    step: int
    kind: str
    target: int
    index: int
    count: int
    max_tokens: int


moments = st.builds(
    Moment,
    step=st.integers(0, 14),
    kind=st.sampled_from(["add", "fork", "fork", "abort"]),
    target=st.integers(0, 7),
    index=st.integers(0, 2),
    count=st.integers(1, 3),
    max_tokens=st.integers(1, 8),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(moments, min_size=2, max_size=12),
    st.integers(1, 5),
    st.integers(1, 20),
    st.integers(25, 50),
    st.booleans(),
)
def test_forks_at_any_moment_change_no_token(
    plan: list[Moment], max_num_seqs: int, extra_budget: int, num_blocks: int, caching: bool
) -> None:
    engine, runner = make_engine(
        num_blocks=num_blocks,
        block_size=2,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_seqs + extra_budget,
        max_model_len=2 * num_blocks,
        enable_prefix_caching=caching,
    )
    runner.keeps_tokens = True
    add(engine, "0", [1, 0, 1], n=2, max_tokens=8)
    results: Results = {}
    expected = {("0", index): says([1, 0, 1], 8, index=index) for index in range(2)}
    num_calls, step = 1, 0
    while step <= 15 or engine.has_unfinished_requests():
        for moment in (each for each in plan if each.step == step):
            name, target = str(num_calls), str(moment.target)
            if moment.kind == "abort":
                join(results, engine.abort_request(target, [moment.index]))
                continue
            if moment.kind == "add":
                prompt = [0, 1] * moment.target + [1]
                add(engine, name, prompt, n=moment.count, max_tokens=moment.max_tokens)
                for i in range(moment.count):
                    expected[name, i] = says(prompt, moment.max_tokens, index=i)
            else:
                parent = engine.scheduler.find_unfinished(
                    *engine._parents.child(target, moment.index)
                )
                if parent is None or parent.num_tokens + 8 > 40:
                    continue
                seeds = list(range(moment.count))
                fork(engine, target, seeds, moment.index, name, max_tokens=moment.max_tokens)
                for i in seeds:
                    expected[name, i] = says(list(parent.token_ids), moment.max_tokens, i)
            num_calls += 1
        check_integrity(engine.scheduler)
        if engine.has_unfinished_requests():
            join(results, engine.step())
        check_integrity(engine.scheduler)
        step += 1
        assert step < 2000, "the scheduler does not come to an end"
    assert {(n, o.index) for n, result in results.items() for o in result.outputs} == set(expected)
    for (name, index), whole in expected.items():
        output = results[name].outputs[index]
        assert output.finished()
        assert output.token_ids == whole[: len(output.token_ids)]
        assert output.finish_reason == "abort" or len(output.token_ids) == len(whole)
    assert engine.load().num_free_kv_blocks == num_blocks


def test_branches_and_others_of_n_begin_with_what_the_runner_keeps_and_lose_it_at_their_end() -> (
    None
):
    engine, runner = make_engine()
    runner.keeps_tokens = True
    parent = add(engine, "a", PROMPT, n=2, max_tokens=9)
    while parent.num_output_tokens < 3:
        engine.step()
    fork(engine, "a", [1, 2], max_tokens=4)
    names = [("a", 0), ("a", 1), *(engine._parents.child("f", index) for index in range(2))]
    seqs = [engine.scheduler.find_unfinished(*name) for name in names]
    kept = [seq.runner_state.token_counts for seq in seqs if seq and seq.runner_state]
    assert len({id(each) for each in kept}) == 4
    assert [each.token_ids for each in kept if isinstance(each, SeenTokens)] == [
        [*PROMPT, *says(PROMPT, 2)],
        [*PROMPT, *says(PROMPT, 2, index=1)],
        [*PROMPT, *says(PROMPT, 2)],
        [*PROMPT, *says(PROMPT, 2)],
    ]
    run(engine)
    assert [seq.runner_state for seq in seqs if seq] == [None] * 4
