"""One step ahead: what is launched before the last step is read, and what is not."""

from typing import Any

import pytest

from engine_service.core.outputs import PENDING_TOKEN, OverlappingRunner
from engine_service.core.request import Branch
from folovllm.sampling_params import SamplingParams
from support.builders.overlapping_runs import PROMPT, add, launched_ids, run, says, tokens
from support.fakes.engine_factory import make_engine, make_overlapping_engine
from support.fakes.matcher import FakeMatcher
from support.fakes.model_runner import num_scheduled_tokens
from support.fakes.overlapping_runner import OverlappingFakeModelRunner


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
    assert [num_scheduled_tokens(step) for step in runner.launched] == [4, 4, 2, 1]
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


@pytest.mark.parametrize(
    "params",
    [
        {"presence_penalty": 1.0},
        {"frequency_penalty": 1.0},
        {"repetition_penalty": 1.5},
        {"bad_words_token_ids": ((1, 2),)},
    ],
)
def test_what_looks_back_waits_for_its_tokens_while_others_go_on(params: dict[str, Any]) -> None:
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
    add(
        engine,
        "a",
        max_tokens=6,
        min_tokens=4,
        stop_token_ids=(first,),
        bad_words_token_ids=((17,),),
    )
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
    engine.fork_request("a", 0, "f", [Branch(SamplingParams(max_tokens=9), 3)])
    run(engine)
    for step in runner.launched[3:7]:
        assert [part.num_scheduled_tokens for part in step.scheduled] == [1, 1, 6]
