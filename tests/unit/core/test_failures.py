"""A request that fails ends alone, with its own error, and leaves nothing behind."""

import pytest

from engine_service.core import scheduler_output_builder
from engine_service.core.forbidden_tokens import forbidden_token_ids
from engine_service.core.request import Branch, Request, Sequence
from engine_service.engine.llm_engine import LLMEngine
from engine_service.engine.score_requests import score_request
from folovllm.errors import (
    ConfigError,
    FolovError,
    InvalidRequestError,
    RequestFailedError,
    ServerError,
)
from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.sampling_params import SamplingParams
from support.builders.overlapping_runs import PROMPT, add, says
from support.fakes.engine_factory import make_engine
from support.fakes.matcher import FakeMatcher
from support.integrity import check_integrity


class Failing:
    """A grammar that fails with the third token."""

    must_stop = is_spent = False
    error: Exception = RuntimeError("a bug")

    def __init__(self) -> None:
        self._left = 3

    def advance(self, token_id: int) -> None:
        self._left -= 1
        if not self._left:
            raise self.error

    def copy(self) -> "Failing":
        return self


def run(engine: LLMEngine) -> tuple[dict[str, RequestOutput], dict[str, FolovError]]:
    """The outputs and the errors of all requests."""
    results: dict[str, RequestOutput] = {}
    failures: dict[str, FolovError] = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            assert output.request_id not in failures
            results.setdefault(output.request_id, RequestOutput()).add(output)
        for failure in engine.drain_failures():
            assert failure.name not in failures
            failures[failure.name] = failure.error
        check_integrity(engine.scheduler)
    assert engine.load().num_free_kv_blocks == engine.info.num_kv_blocks
    return results, failures


def check_neighbour(results: dict[str, RequestOutput]) -> None:
    assert results["neighbour"].outputs[0].token_ids == says(30)


def test_one_continuation_that_fails_ends_its_request() -> None:
    engine, runner = make_engine(speculation="none")
    add(engine, "neighbour", max_tokens=30)
    add(engine, "three", n=3, max_tokens=30)
    runner.poison = {(6, 2)}
    results, failures = run(engine)
    assert set(failures) == {"three"}
    assert not any(output.finish_reason for output in results["three"].outputs)
    check_neighbour(results)


def test_one_branch_that_fails_ends_its_fork_and_not_the_parent() -> None:
    engine, runner = make_engine(speculation="none")
    add(engine, "neighbour", max_tokens=30)
    engine.step()
    branches = [Branch(SamplingParams(max_tokens=9), seed) for seed in (1, 2)]
    engine.fork_request("neighbour", 0, "fork", branches)
    runner.poison = {(4, 2)}
    tokens: list[int] = says(1)
    results, failures = run(engine)
    tokens += results["neighbour"].outputs[0].token_ids
    assert set(failures) == {"fork"} and tokens == says(30)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_one_score_that_fails_ends_the_call(part: int) -> None:
    engine, runner = make_engine(max_num_seqs=4, speculation="none")
    add(engine, "neighbour", max_tokens=30)
    request = score_request(PROMPT, [[1, 2], [3, 4], [5]], engine.info)
    engine.add_scores("scores", request)
    # The first is computed by itself, then the others together.
    runner.poison = {(0, 1)} if part == 0 else {(1, part)}
    results, failures = run(engine)
    assert set(failures) == {"scores"}
    check_neighbour(results)
    engine.add_scores("scores", request)
    assert run(engine)[1] == {}


def test_a_bug_in_a_grammar_ends_those_who_follow_it(caplog: pytest.LogCaptureFixture) -> None:
    engine, _ = make_engine()
    add(engine, "neighbour", max_tokens=30)
    engine.add_request(Request("broken", PROMPT, SamplingParams(max_tokens=9, n=2)), Failing())
    results, failures = run(engine)
    error = failures["broken"]
    assert isinstance(error, RequestFailedError) and error.request_id == "broken"
    assert "a bug" not in str(error) and "a bug" in caplog.text
    check_neighbour(results)


def test_a_grammar_that_cannot_be_followed_says_so() -> None:
    engine, _ = make_engine(vocab_size=1)
    add(engine, "a", matcher=FakeMatcher(3), max_tokens=9)
    (error,) = run(engine)[1].values()
    assert isinstance(error, InvalidRequestError) and error.field == "sampling_params.regex"


@pytest.mark.parametrize("after", [0, 3])
def test_what_cannot_be_planned_ends_alone(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = make_engine(speculation="none")
    add(engine, "neighbour", max_tokens=30)
    add(engine, "broken", n=2, max_tokens=9)
    plan = forbidden_token_ids

    def forbidden(seq: Sequence, *arguments: object) -> tuple[int, ...]:
        if seq.request.request_id == "broken" and seq.num_output_tokens >= after:
            raise IndexError("a bug")
        return plan(seq, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(scheduler_output_builder, "forbidden_token_ids", forbidden)
    results, failures = run(engine)
    assert set(failures) == {"broken"}
    check_neighbour(results)


def test_a_prompt_that_was_nan_once_is_computed_anew() -> None:
    """Also where that is noticed only after a part of it is in the prefix cache."""
    engine, runner = make_engine(max_num_batched_tokens=16)
    runner.sees_chunks = False
    prompt = [*range(1, 41)]
    add(engine, "neighbour", max_tokens=30)
    add(engine, "first", prompt, max_tokens=9)
    runner.poison = {(1, 1)}
    results, failures = run(engine)
    assert set(failures) == {"first"}
    check_neighbour(results)
    add(engine, "second", prompt, max_tokens=9)
    results, failures = run(engine)
    assert not failures and results["second"].outputs[0].token_ids == says(9, prompt)


def test_a_draft_is_not_held_against_its_sequence() -> None:
    def computed(poison: set[tuple[int, int]]) -> tuple[list[int], int]:
        engine, runner = make_engine(vocab_size=1)
        add(engine, "a", [0] * 6, max_tokens=20)
        runner.poison = poison
        results, failures = run(engine)
        assert not failures
        drafting = [
            number
            for number, step in enumerate(runner.steps)
            if any(part.draft_token_ids for part in step.scheduled)
        ]
        return results["a"].outputs[0].token_ids, drafting[0]

    expected, drafting = computed(set())
    assert computed({(drafting, 0)})[0] == expected


def outputs_of(engine: LLMEngine) -> list[CompletionOutput]:
    outputs = []
    while engine.has_unfinished_requests():
        outputs += engine.step()
    return outputs


def test_an_error_that_no_one_asks_for_is_raised() -> None:
    engine, runner = make_engine()
    add(engine, "neighbour", max_tokens=30)
    add(engine, "a", max_tokens=30)
    runner.poison = {(2, 1)}
    with pytest.raises(RequestFailedError) as raised:
        outputs_of(engine)
    assert raised.value.request_id == "a"
    assert {output.request_id for output in outputs_of(engine)} == {"neighbour"}


def test_one_that_fails_alone_is_not_taken_for_a_broken_engine() -> None:
    engine, runner = make_engine()
    for number in range(5):
        add(engine, str(number), max_tokens=30)
        runner.poison = {(len(runner.steps), 0)}
        outputs, failures = run(engine)
        assert set(failures) == {str(number)} and not outputs
    assert not any(name.startswith("probe") for name in outputs)


def test_an_engine_on_which_everything_fails_blames_no_request() -> None:
    engine, runner = make_engine()
    for name in "abc":
        add(engine, name, max_tokens=30)
    engine.step()
    runner.overflow = 1
    engine.step()
    assert not engine.drain_failures()
    with pytest.raises(ServerError, match="no request can be computed any more") as raised:
        engine.step()
    assert not isinstance(raised.value, RequestFailedError)


def test_an_engine_on_which_everything_fails_does_not_start() -> None:
    engine, runner = make_engine()
    runner.overflow = 1
    with pytest.raises(ConfigError, match="the model does not start: .*NaN"):
        engine.warm_up()
