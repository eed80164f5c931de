"""Races of engines, with engines that answer at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from benchmarks.harness.batch_clock import Timing
from benchmarks.harness.cases import Case
from benchmarks.harness.ceilings import Bounds, Ceilings
from benchmarks.harness.engine_name import EngineName
from benchmarks.harness.model_shape import ModelShape
from benchmarks.peers.contender import Contender, ContenderError
from benchmarks.peers.race import race
from folovllm.model_files import DEMO_MODEL

BOUNDS = Bounds(Ceilings(45e9, 800e9), ModelShape.from_folder(DEMO_MODEL))
CASE = Case("decode", 2, 24, 9)


class FakeContender:
    """Decodes at a rate of 1, 2, 3 …, and fails at a turn."""

    def __init__(self, name: str, calls: list[str], fails_at: int = -1) -> None:
        self.name = EngineName.parse(name)
        self.prompt_lengths: list[int] = []
        self._calls, self._fails_at = calls, fails_at

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Timing:
        turn = len(self.prompt_lengths)
        if turn == self._fails_at:
            raise ContenderError(f"{self.name} ended")
        self.prompt_lengths.append(len(prompts[0]))
        self._calls.append(str(self.name))
        return Timing(prefill_s=1.0, decode_rate=float(turn), total_s=2.0)

    @contextmanager
    def turn(self) -> Iterator[None]:
        self._calls.append("resumed")
        yield
        self._calls.append("idle")


def test_engines_take_turns_after_a_short_one() -> None:
    calls: list[str] = []
    ours, peer = FakeContender("folovllm", calls), FakeContender("vllm", calls)

    found = race(cast(list[Contender], [ours, peer]), CASE, 2, BOUNDS, pytest.fail)

    assert calls == ["resumed", "folovllm", "idle", "resumed", "vllm", "idle"] * 3
    assert ours.prompt_lengths == [16, 24, 24]
    assert [(each.engine, each.values) for each in found] == [
        ("folovllm", (1.0, 2.0)),
        ("vllm", (1.0, 2.0)),
    ]


def test_a_peer_that_fails_leaves_the_run() -> None:
    calls, said = list[str](), list[str]()
    ours, peer = FakeContender("folovllm", calls), FakeContender("vllm", calls, fails_at=1)
    contenders = cast(list[Contender], [ours, peer])

    found = race(contenders, CASE, 2, BOUNDS, said.append)

    assert [each.engine for each in found] == ["folovllm"]
    assert [each.name for each in contenders] == [ours.name]
    assert said == ["vllm leaves the run at decode 2 x 24: vllm ended"]


def test_the_run_ends_with_our_own_engine() -> None:
    ours = FakeContender("folovllm", [], fails_at=0)

    with pytest.raises(ContenderError):
        race(cast(list[Contender], [ours]), CASE, 2, BOUNDS, pytest.fail)
