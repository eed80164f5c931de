"""The first rank's calls, repeated by the others: on the fake model, with ranks as threads."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from torch._C._distributed_c10d import HashStore

from engine_service.config import EngineConfig, SchedulerConfig
from engine_service.core.fork import Branch, Fork
from engine_service.core.request import Request
from engine_service.distributed.broadcast import CommandChannel
from engine_service.distributed.leader import EngineLeader, follow
from engine_service.engine.llm_engine import LLMEngine
from folovllm.errors import EngineDeadError, InvalidRequestError, NotFoundError, ServerError
from folovllm.outputs import CompletionOutput, FinishReason, RequestOutput
from folovllm.sampling_params import SamplingParams
from support.fakes.engine_factory import make_engine
from support.fakes.model_runner import VOCAB_SIZE, FakeModelRunner
from support.fakes.overlapping_runner import OverlappingFakeModelRunner
from support.processes.rank_threads import make_group

GREEDY = SamplingParams(temperature=0.0, max_tokens=10, ignore_eos=True)


class RecordedEngine(LLMEngine):
    """Keeps what each step brings."""

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
        self.channel = CommandChannel(make_group(store, "commands", 0, 2))
        self.other_channel = CommandChannel(other.result(timeout=20))
        self.leader = EngineLeader(self.leader_engine, self.channel)
        self.leader.warm_up()
        self.followed: Future[None] = self._threads.submit(
            follow, self.follower, self.other_channel
        )

    def run_to_end(self) -> dict[str, RequestOutput]:
        results: dict[str, RequestOutput] = {}
        while self.leader.has_unfinished_requests():
            for output in self.leader.step():
                results.setdefault(output.request_id, RequestOutput()).add(output)
        return results

    def check_alike(self) -> None:
        """That both engines have done the same, to the last block; stops them."""
        # With the next step the follower hears of what came after the last.
        self.leader.add_request(Request("last", [1], GREEDY))
        self.run_to_end()
        self.leader.stop()
        self.followed.result(timeout=20)
        engines = (self.leader_engine, self.follower)
        for engine in engines:
            engine.scheduler.check_integrity()
        first, second = (engine.steps for engine in engines)
        assert first == second != []
        assert engines[0].load() == engines[1].load()


def call_add(leader: EngineLeader) -> None:
    leader.add_request(Request("b", range(3, 30), GREEDY.clone(n=3, temperature=1.0), seed=5))


def call_fork(leader: EngineLeader) -> None:
    branches = [Branch(GREEDY, 1), Branch(GREEDY.clone(temperature=1.0), 2)]
    leader.fork_request(Fork("a", 0, "branches", branches))


def call_scores(leader: EngineLeader) -> None:
    params = SamplingParams(temperature=0.0, prompt_logprobs=0)
    leader.add_scores(
        "scores",
        (Request(f"s{i}", [1, 2, 3, 4, 5, i], params, scored_from=5) for i in range(3)),
    )


def call_abort(leader: EngineLeader) -> None:
    assert [output.request_id for output in leader.abort_request("a", iter([0]))] == ["a"]


def call_long(leader: EngineLeader) -> None:
    """More than one broadcast holds."""
    for number in range(80):
        leader.add_request(Request(f"long {number}", range(40 + number), GREEDY, cache_salt="x"))


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("call", [call_add, call_fork, call_scores, call_abort, call_long])
def test_the_follower_does_what_the_leader_is_asked(
    call: Callable[[EngineLeader], None], ahead: bool
) -> None:
    ranks = Ranks(ahead=ahead)
    ranks.leader.add_request(Request("a", [1, 2, 3], GREEDY))
    for _ in range(3):
        ranks.leader.step()
    call(ranks.leader)
    ranks.run_to_end()
    ranks.check_alike()


def test_the_leader_answers_as_its_engine() -> None:
    ranks = Ranks()
    assert ranks.leader.info is ranks.leader_engine.info
    assert ranks.leader.default_sampling_params is ranks.leader_engine.default_sampling_params
    assert ranks.leader.make_matcher(GREEDY) is None
    ranks.leader.add_request(Request("a", [1, 2, 3], GREEDY))
    assert ranks.leader.load().num_waiting == 1
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
    ranks.leader.add_request(Request("a", [1, 2, 3], GREEDY))
    ranks.leader.step()
    with pytest.raises(NotFoundError):
        ranks.leader.fork_request(Fork("none", 0, "branches", [Branch(GREEDY, 1)]))
    with pytest.raises(InvalidRequestError):
        long = Branch(GREEDY.clone(max_tokens=1000), 1)
        ranks.leader.fork_request(Fork("a", 0, "branches", [long]))
    ranks.run_to_end()
    ranks.check_alike()


def test_a_follower_that_draws_other_tokens_ends() -> None:
    ranks = Ranks(RecordedEngine(vocab_size=3))
    ranks.leader.add_request(Request("a", range(3, 9), GREEDY))
    ranks.leader.step()
    ranks.leader.step()  # which tells the follower what the first brought
    with pytest.raises(ServerError, match="has drawn other tokens than the first one"):
        ranks.followed.result(timeout=20)


def test_a_rank_that_ends_takes_the_others_along() -> None:
    ranks = Ranks()
    ranks.leader.add_request(Request("a", [1, 2, 3], GREEDY))
    ranks.leader.step()
    del ranks.channel, ranks.leader
    with pytest.raises(EngineDeadError, match="another rank has ended"):
        ranks.followed.result(timeout=20)
