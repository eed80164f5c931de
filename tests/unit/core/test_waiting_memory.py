"""What waits is held once, takes no more than it is said to, and is let go at every kind of end."""

import tracemalloc
import weakref
from array import array
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from engine_service.core import kv_cache_manager
from engine_service.core.request import Branch, Request, RequestStatus
from engine_service.engine.llm_engine import LLMEngine
from engine_service.engine.request_cost import (
    RequestCost,
    fork_cost,
    request_cost,
    score_cost,
)
from engine_service.engine.score_requests import ScoreRequest
from folovllm.sampling_params import SamplingParams
from support.fakes.engine_factory import make_engine, sequence_of
from support.fakes.matcher import FakeMatcher
from support.fakes.model_runner import FakeModelRunner, expected_tokens

MAX_MODEL_LEN = 50_000
GREEDY = SamplingParams(max_tokens=6)
LONG = SamplingParams(
    max_tokens=6,
    bad_words_token_ids=tuple(tuple(range(300, 400)) for _ in range(40)),
    stop_token_ids=tuple(range(300, 428)),
    allowed_token_ids=tuple(range(300, 900)),
    logit_bias=tuple((i, 1.5) for i in range(300, 900)),
)


def busy_engine() -> LLMEngine:
    """One that has no room for another request."""
    engine, _ = make_engine(
        max_num_seqs=1, max_model_len=MAX_MODEL_LEN, num_blocks=9000, block_size=16
    )
    engine.add_request(Request("busy", range(300, 320), SamplingParams(max_tokens=1000)))
    engine.step()
    return engine


@dataclass(frozen=True)
class Kind:
    """A kind of call: what one holds, and what it is said to cost."""

    prompt_length: int
    params: SamplingParams = GREEDY
    count: int = 0
    """Of branches or continuations."""
    how: str = "generate"

    def __str__(self) -> str:
        return f"{self.how} {self.prompt_length} n={self.params.n} x{self.count}"

    def add(self, engine: LLMEngine, name: str) -> None:
        """Adds what waits, each from its own copy of a prompt and of the parameters."""
        prompt = array("I", range(300, 300 + self.prompt_length))
        if self.how == "score":
            engine.add_scores(name, ScoreRequest(prompt, [[7, 8]] * self.count))
        elif self.how == "fork":
            branches = [Branch(self.params.clone(seed=i)) for i in range(self.count)]
            engine.fork_request("busy", 0, name, branches)
        else:
            engine.add_request(Request(name, prompt, self.params.clone(seed=1)))

    def cost(self) -> RequestCost:
        prompt = range(self.prompt_length)
        if self.how == "score":
            return score_cost(ScoreRequest(prompt, [[7, 8]] * self.count))
        if self.how == "fork":
            return fork_cost(21, [Branch(self.params)] * self.count, MAX_MODEL_LEN)
        return request_cost(Request("", prompt, self.params), MAX_MODEL_LEN)


KINDS = [
    *(Kind(length, GREEDY.clone(n=n)) for length in (1, 2030, 40_000) for n in (1, 128)),
    Kind(10, LONG),
    Kind(10, LONG.clone(n=128)),
    *(Kind(length, count=n, how="score") for length in (1, 40_000) for n in (1, 128)),
    *(Kind(0, count=n, how="fork") for n in (1, 128)),
]


def held_bytes(kind: Kind, count: int = 4) -> float:
    """What one of them holds while it waits."""
    engine = busy_engine()
    kind.add(engine, "first")
    tracemalloc.start()
    try:
        for number in range(count):
            kind.add(engine, str(number))
        return tracemalloc.get_traced_memory()[0] / count
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_waits_takes_no_more_than_it_costs(kind: Kind) -> None:
    held = held_bytes(kind)
    assert held <= kind.cost().num_bytes
    if kind.how == "generate" and not kind.params.bad_words_token_ids:
        assert held <= 4.5 * kind.prompt_length + 3072  # whatever n is


def test_a_cost_counts_tokens_and_their_kv() -> None:
    request = Request("", range(10), SamplingParams(n=3, max_tokens=5))
    cost = request_cost(request, 100)
    assert (cost.num_tokens, cost.num_kv_tokens) == (45, 25)
    unlimited = Request("", range(10), SamplingParams(n=2, max_tokens=None))
    assert request_cost(unlimited, 100).num_tokens == 200
    branches = [Branch(SamplingParams(max_tokens=tokens)) for tokens in (5, None)]
    cost = fork_cost(10, branches, 20)
    assert (cost.num_tokens, cost.num_kv_tokens) == (35, 25)
    cost = score_cost(ScoreRequest(range(10), [[1], [1, 2]]))
    assert (cost.num_tokens, cost.num_kv_tokens) == (23, 13)
    assert request_cost(Request("", range(10), LONG), 100).num_bytes > 48 * 4000


class CountedMatcher(FakeMatcher):
    """Counts copies of all."""

    num_copies = 0

    def copy(self) -> "CountedMatcher":
        CountedMatcher.num_copies += 1
        return self


def test_no_sequence_is_made_before_it_runs() -> None:
    engine = busy_engine()
    matcher = CountedMatcher(9)
    engine.add_request(Request("n", range(30), GREEDY.clone(n=128)), matcher)
    engine.fork_request("busy", 0, "fork", [Branch(GREEDY)] * 5)
    engine.add_scores("scores", ScoreRequest(range(30), [[1], [2]]))
    groups = engine.scheduler._states.groups
    waiting = [group for name, group in groups.items() if name != "busy"]
    assert len(waiting) == 7 and not any(group.made_seqs() for group in waiting)
    assert engine.load().num_waiting == 7
    assert len(engine.abort_request("n")) == 128
    assert CountedMatcher.num_copies == 0


def release(engine: LLMEngine, runner: FakeModelRunner) -> None:
    """Runs what is left to its end, and lets the fake model forget it."""
    while engine.has_unfinished_requests():
        engine.step()
        engine.drain_failures()
    runner.steps.clear()


def finish(engine: LLMEngine, runner: FakeModelRunner) -> None:
    release(engine, runner)


def abort_at_once(engine: LLMEngine, runner: FakeModelRunner) -> None:
    engine.abort_request("it")


def abort_in_parts(engine: LLMEngine, runner: FakeModelRunner) -> None:
    engine.abort_request("it", [0])
    engine.step()
    engine.abort_request("it", [2])
    engine.abort_request("it", [1, 3])


def abort_while_it_runs(engine: LLMEngine, runner: FakeModelRunner) -> None:
    for _ in range(3):
        engine.step()
    engine.abort_request("it")


def abort_what_is_preempted(engine: LLMEngine, runner: FakeModelRunner) -> None:
    for _ in range(3):
        engine.step()
    states = engine.scheduler._states
    while states.running:
        states.preempt_last()
    engine.abort_request("it")


def fail(engine: LLMEngine, runner: FakeModelRunner) -> None:
    engine.step()
    runner.poison = {(len(runner.steps), index) for index in range(4)}
    engine.step()


def be_overdue(engine: LLMEngine, runner: FakeModelRunner) -> None:
    assert [failure.name for failure in engine.end_overdue(10.0, 1e12)][-1] == "it"


ENDS = [
    *(finish, abort_at_once, abort_in_parts, abort_while_it_runs),
    *(abort_what_is_preempted, fail, be_overdue),
]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("how", ["generate", "score", "fork"])
def test_a_prompt_is_let_go_at_every_end(
    how: str, end: Callable[[LLMEngine, FakeModelRunner], None]
) -> None:
    engine, runner = make_engine(max_num_seqs=4)
    prompt = array("I", range(1, 24))
    if how == "score":
        engine.add_scores("it", ScoreRequest(prompt, [[1], [2, 3], [4, 5, 6], [7]]))
    elif how == "generate":
        engine.add_request(Request("it", prompt, GREEDY.clone(n=4)), FakeMatcher(9))
    else:
        engine.add_request(Request("parent", prompt, GREEDY))
        engine.fork_request("parent", 0, "it", [Branch(GREEDY)] * 4)
    shared = weakref.ref(prompt)
    del prompt
    assert shared() is not None
    end(engine, runner)
    release(engine, runner)
    assert shared() is None  # without the garbage collector, which may take its time
    assert not engine._unannounced and "it" not in engine._parents
    assert not engine.scheduler._states.queued_since


@pytest.mark.parametrize("kind", ["n", "fork", "score"])
def test_a_shared_prompt_is_hashed_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    digests: list[bytes] = []
    plain = kv_cache_manager._digest

    def digest(data: bytes) -> bytes:
        digests.append(data)
        return plain(data)

    monkeypatch.setattr(kv_cache_manager, "_digest", digest)
    engine, _ = make_engine(num_blocks=12, max_num_seqs=2, block_size=4)
    prompt = [*range(1, 26)]
    if kind == "n":
        engine.add_request(Request("it", prompt, GREEDY.clone(n=8)))
    elif kind == "fork":
        engine.add_request(Request("parent", prompt, GREEDY.clone(max_tokens=20)))
        engine.step()
        engine.fork_request("parent", 0, "it", [Branch(GREEDY, seed) for seed in range(8)])
    else:
        engine.add_scores("it", ScoreRequest(prompt, [[i, i] for i in range(8)]))
    while engine.has_unfinished_requests():
        engine.step()
    blocks = {array("I", prompt[start : start + 4]).tobytes() for start in range(0, 24, 4)}
    assert sorted(data[16:] for data in digests if data[16:] in blocks) == sorted(blocks)


def test_branches_of_what_waits_are_right_and_share_its_tokens() -> None:
    engine, runner = make_engine(max_num_seqs=1)
    engine.add_request(Request("busy", [1], GREEDY))
    engine.add_request(Request("parent", range(1, 20), GREEDY, seed=5))
    engine.fork_request("parent", 0, "it", [Branch(GREEDY, seed) for seed in range(3)])
    groups = [
        group for group in engine.scheduler._states.groups.values() if group.arrival_order > 1
    ]
    assert len(groups) == 3 and len({id(group.request.token_ids) for group in groups}) == 1
    assert sequence_of(engine, "parent").status is RequestStatus.WAITING
    found: dict[tuple[str, int], list[int]] = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            found.setdefault((output.request_id, output.index), []).extend(output.token_ids)
    for index in range(3):
        assert found["it", index] == expected_tokens(range(1, 20), 6, seed=index)
