"""Who waits, for how long, and who starts next."""

import itertools

import pytest

from engine_service.core.request import Branch, Request, RequestStatus
from engine_service.core.waiting import scheduling_policy
from engine_service.core.waiting.scheduling_policy import PriorityThenArrival
from engine_service.core.waiting.waiting_queue import WaitingQueue
from engine_service.engine.llm_engine import LLMEngine
from engine_service.engine.score_requests import score_request
from folovllm.errors import QueueFullError
from folovllm.sampling_params import SamplingParams
from support.builders.overlapping_runs import Results, join, run
from support.fakes.engine_factory import make_engine, sequence_of
from support.integrity import check_integrity

PROMPT = list(range(1, 11))


class Clock:
    """A time that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def add(engine: LLMEngine, name: str, *, at: float = 0.0, priority: int = 0, n: int = 1) -> None:
    params = SamplingParams(n=n, max_tokens=4)
    engine.add_request(Request(name, PROMPT, params, seed=7, arrival_time=at, priority=priority))


def end_overdue(engine: LLMEngine, now: float, max_seconds: float = 10.0) -> list[str]:
    failures = engine.end_overdue(max_seconds, now)
    check_integrity(engine.scheduler)
    assert all(isinstance(failure.error, QueueFullError) for failure in failures)
    return [failure.name for failure in failures]


def test_the_earliest_arrival_of_the_lowest_priority_starts_next() -> None:
    engine, _ = make_engine(max_num_seqs=1)
    for name, priority, at in (
        ("new", 0, 5.0),
        ("newer", 0, 6.0),
        ("has come again", 0, 1.0),
        ("as new", 0, 5.0),
        ("urgent", -1, 9.0),
    ):
        add(engine, name, at=at, priority=priority)
    assert [*run(engine)] == ["urgent", "has come again", "new", "as new", "newer"]


def test_those_that_arrived_later_are_preempted_first() -> None:
    engine, _ = make_engine(num_blocks=8, block_size=2, enable_prefix_caching=False)
    for name, at in (("late", 3.0), ("early", 1.0), ("between", 2.0)):
        params = SamplingParams(max_tokens=9)
        engine.add_request(Request(name, [1, 2, 3], params, seed=7, arrival_time=at))
    seqs = {name: sequence_of(engine, name) for name in ("early", "between", "late")}
    run(engine)
    preemptions = [seq.num_preemptions for seq in seqs.values()]
    assert preemptions[0] == 0 and preemptions[2] >= preemptions[1] and preemptions[2] > 0


def test_a_long_queue_is_searched_in_few_comparisons(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    num_keys, plain = itertools.count(), scheduling_policy._key
    monkeypatch.setattr(scheduling_policy, "_key", lambda of: (next(num_keys), plain(of))[1])
    engine, _ = make_engine()
    for number in range(150):
        add(engine, str(number), at=(number * 7919) % 150, n=128)
    assert next(num_keys) < 150 * 10
    for number in range(150):
        assert len(engine.abort_request(str(number))) == 128
    assert next(num_keys) < 2 * 150 * 10
    check_integrity(engine.scheduler)
    assert not engine.has_unfinished_requests() and engine.load().num_queued_tokens == 0


def test_the_queue_counts_the_tokens_that_it_was_given() -> None:
    queue = WaitingQueue(PriorityThenArrival())
    engine, _ = make_engine()
    add(engine, "a", n=3)
    group = engine.scheduler._states.groups["a"]
    queue.add(group, 2)
    queue.add(group, 1)
    assert (len(queue), queue.num_queued_tokens, queue.first().index) == (2, 20, 1)
    assert group.first_seq_id + 1 in queue and group.first_seq_id not in queue
    queue.remove(queue.first().seq_id)
    assert (len(queue), queue.num_queued_tokens, queue.first().index) == (1, 10, 2)
    assert group.made_seqs() == []


def test_what_has_not_run_is_overdue_from_when_it_was_added() -> None:
    clock = Clock()
    engine, _ = make_engine(max_num_seqs=1, clock=clock)
    add(engine, "runs", at=-99.0)
    engine.step()
    for name, now in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        clock.now = now
        add(engine, name, at=-99.0, n=128)
    assert end_overdue(engine, 11.0) == []
    assert end_overdue(engine, 12.5) == ["a", "b"]
    assert end_overdue(engine, 12.5) == []
    assert engine.load().num_waiting == 1
    results = run(engine)
    assert {*results} == {"runs", "c"} and len(results["c"].outputs) == 128
    assert end_overdue(engine, 1e9) == []


def test_what_was_preempted_is_not_overdue() -> None:
    engine, _ = make_engine(num_blocks=8, block_size=2, enable_prefix_caching=False, clock=Clock())
    for number in range(3):
        params = SamplingParams(max_tokens=10)
        engine.add_request(Request(str(number), [number, 1, 2], params))
    seq = sequence_of(engine, "2")
    results: Results = {}
    while seq.status is not RequestStatus.PREEMPTED:
        join(results, engine.step())
    assert end_overdue(engine, 1e9) == []
    assert len(run(engine, results)["2"].outputs[0].token_ids) == 10


def test_n_that_wait_after_the_first_has_run_are_not_overdue() -> None:
    engine, _ = make_engine(max_num_seqs=2, clock=Clock())
    add(engine, "a", n=5)
    results: Results = {}
    join(results, engine.step())
    assert engine.load().num_waiting == 3 and end_overdue(engine, 1e9) == []
    assert len(run(engine, results)["a"].outputs) == 5


def test_a_call_that_has_begun_is_not_overdue_in_part() -> None:
    engine, _ = make_engine(max_num_seqs=3, clock=Clock())
    add(engine, "a")
    engine.add_scores("scores", score_request(PROMPT, [[1], [2], [3]], engine.info))
    results: Results = {}
    join(results, engine.step())
    engine.fork_request("a", 0, "fork", [Branch(SamplingParams(max_tokens=9))] * 5)
    assert engine.load().num_waiting >= 4 and end_overdue(engine, 1e9) == []
    while engine.has_unfinished_requests():
        join(results, engine.step())
        assert end_overdue(engine, 1e9) == []
    assert {name: len(result.outputs) for name, result in results.items()} == {
        "a": 1,
        "scores": 3,
        "fork": 5,
    }


@pytest.mark.parametrize("waits", ["fork", "scores"])
def test_a_call_of_which_nothing_has_run_is_overdue_as_a_whole(waits: str) -> None:
    engine, _ = make_engine(max_num_seqs=1, clock=Clock())
    add(engine, "a")
    results: Results = {}
    join(results, engine.step())
    if waits == "fork":
        engine.fork_request("a", 0, waits, [Branch(SamplingParams(max_tokens=2))] * 3)
    else:
        engine.add_scores(waits, score_request(PROMPT, [[1], [2], [3]], engine.info))
    assert end_overdue(engine, 10.0) == []
    assert end_overdue(engine, 10.5) == [waits]
    assert waits not in engine._parents and not engine.load().num_waiting
    run(engine, results)
    assert {*results} == {"a"}
    add(engine, waits)  # the name is free again
    assert {*run(engine)} == {waits}
