"""The first rank's commands, repeated by the others: on the fake model, with ranks as threads."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from torch._C._distributed_c10d import HashStore

from engine_service.config import EngineConfig, SchedulerConfig
from engine_service.core.request import Branch, Request
from engine_service.distributed import broadcast
from engine_service.distributed.broadcast import BroadcastChannel
from engine_service.distributed.leader import Leader, follow
from engine_service.engine.commands import Abort, Command, Fork, Generate, Score
from engine_service.engine.llm_engine import LLMEngine
from engine_service.engine.score_requests import ScoreRequest
from folovllm.errors import EngineDeadError, InvalidRequestError, NotFoundError, ServerError
from folovllm.outputs import CompletionOutput, FinishReason, RequestOutput
from folovllm.sampling_params import SamplingParams
from support.fakes.engine_factory import make_engine
from support.fakes.model_runner import VOCAB_SIZE, FakeModelRunner
from support.fakes.overlapping_runner import OverlappingFakeModelRunner
from support.integrity import check_integrity
from support.processes.commanded_engine import CommandedEngine
from support.processes.rank_threads import make_group

GREEDY = SamplingParams(temperature=0.0, max_tokens=10, ignore_eos=True)


@pytest.fixture(autouse=True)
def ends_if_the_other_rank_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that is a thread keeps its connections when it fails."""
    monkeypatch.setattr(broadcast, "IDLE_LIMIT", timedelta(seconds=60))


class RecordedEngine(LLMEngine):
    """Records the outputs of each step."""

    def __init__(self, vocab_size: int = VOCAB_SIZE, ahead: bool = False) -> None:
        """`ahead` makes one that launches a step before it reads the one before."""
        info = make_engine()[0].info
        kind = OverlappingFakeModelRunner if ahead else FakeModelRunner
        scheduler = SchedulerConfig(16, 64, speculation="none" if ahead else "ngram")
        runner = kind(info.block_size, vocab_size)
        super().__init__(runner, EngineConfig(scheduler=scheduler), info)
        self.steps: list[list[tuple[str, int, list[int], FinishReason | None]]] = []

    def step(self) -> list[CompletionOutput]:
        outputs = super().step()
        self.steps.append(
            [
                (output.request_id, output.index, output.token_ids, output.finish_reason)
                for output in outputs
            ]
        )
        return outputs


class Ranks:
    """A leader on this thread and a follower on another, each with an engine of its own."""

    def __init__(self, follower: RecordedEngine | None = None, ahead: bool = False) -> None:
        store = HashStore()
        self._threads = ThreadPoolExecutor(1)
        self.follower = follower or RecordedEngine(ahead=ahead)
        self.leader_engine = RecordedEngine(ahead=ahead)
        other = self._threads.submit(make_group, store, "commands", 1, 2)
        self.channel = BroadcastChannel(make_group(store, "commands", 0, 2))
        self.other_channel = BroadcastChannel(other.result(timeout=20))
        self.leader = Leader(self.channel)
        self.engine = CommandedEngine(self.leader_engine, self.leader.step)
        self.leader_engine.warm_up()
        self.followed: Future[None] = self._threads.submit(
            follow, self.follower, self.other_channel
        )

    def run_to_end(self) -> dict[str, RequestOutput]:
        results: dict[str, RequestOutput] = {}
        while self.leader_engine.has_unfinished_requests():
            for output in self.engine.step():
                results.setdefault(output.request_id, RequestOutput()).add(output)
        return results

    def check_alike(self) -> None:
        """That both engines have done the same, to the last block; stops them."""
        # The follower gets commands with the next step.
        self.engine.apply(generate("last", [1]))
        self.run_to_end()
        self.leader.stop()
        self.followed.result(timeout=20)
        engines = (self.leader_engine, self.follower)
        for engine in engines:
            check_integrity(engine.scheduler)
        first, second = (engine.steps for engine in engines)
        assert first == second != []
        assert engines[0].load() == engines[1].load()


def generate(name: str, prompt: Sequence[int], **options: Any) -> Generate:
    return Generate(Request(name, prompt, **{"sampling_params": GREEDY} | options))


def fork(parent: str, *branches: Branch) -> Fork:
    return Fork(parent, 0, "branches", branches, time.monotonic())


COMMANDS: dict[str, list[Command]] = {
    "generate": [
        generate("b", range(3, 30), sampling_params=GREEDY.clone(n=3, temperature=1.0), seed=5)
    ],
    "fork": [fork("a", Branch(GREEDY, 1), Branch(GREEDY.clone(temperature=1.0), 2))],
    "score": [Score("scores", ScoreRequest([1, 2, 3, 4, 5], [[i] for i in range(3)]))],
    "abort": [Abort("a", (0,))],
    "suspects": [
        generate(f"moved {number}", range(9), moved=True, is_suspect=number != 2)
        for number in range(4)
    ],
    "more than one broadcast holds": [
        generate(f"long {number}", range(40 + number), cache_salt="x") for number in range(80)
    ],
}


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("commands", COMMANDS.values(), ids=COMMANDS)
def test_the_follower_repeats_the_leaders_commands(commands: list[Command], ahead: bool) -> None:
    ranks = Ranks(ahead=ahead)
    ranks.engine.apply(generate("a", [1, 2, 3]))
    for _ in range(3):
        ranks.engine.step()
    for command in commands:
        ranks.engine.apply(command)
    ranks.run_to_end()
    ranks.check_alike()


def test_the_leader_gives_what_its_engine_gives_alone() -> None:
    ranks = Ranks()
    ranks.engine.apply(generate("a", [1, 2, 3]))
    result = ranks.run_to_end()["a"]
    alone, _ = make_engine()
    alone.add_request(Request("a", [1, 2, 3], GREEDY))
    expected = RequestOutput()
    while alone.has_unfinished_requests():
        for output in alone.step():
            expected.add(output)
    assert result.outputs[0].token_ids == expected.outputs[0].token_ids
    ranks.check_alike()


def test_a_fork_that_is_refused_is_nobodys() -> None:
    ranks = Ranks()
    ranks.engine.apply(generate("a", [1, 2, 3]))
    ranks.engine.step()
    with pytest.raises(NotFoundError):
        ranks.engine.apply(fork("none", Branch(GREEDY, 1)))
    with pytest.raises(InvalidRequestError):
        long = Branch(GREEDY.clone(max_tokens=1000), 1)
        ranks.engine.apply(fork("a", long))
    ranks.run_to_end()
    ranks.check_alike()


def test_a_follower_that_draws_other_tokens_ends() -> None:
    ranks = Ranks(RecordedEngine(vocab_size=3))
    ranks.engine.apply(generate("a", range(3, 9)))
    ranks.engine.step()
    ranks.engine.step()  # which sends the follower a digest of the first
    with pytest.raises(ServerError, match="has drawn other tokens than the first one"):
        ranks.followed.result(timeout=20)


def test_a_rank_that_ends_takes_the_others_along() -> None:
    ranks = Ranks()
    ranks.engine.apply(generate("a", [1, 2, 3]))
    ranks.engine.step()
    del ranks.channel, ranks.leader, ranks.engine
    with pytest.raises(EngineDeadError, match="another rank has ended"):
        ranks.followed.result(timeout=20)
