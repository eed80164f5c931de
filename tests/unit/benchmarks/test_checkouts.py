"""Two checkouts beside each other, with engines that answer at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from benchmarks.checkouts import interval, main, ratios_of_pairs
from benchmarks.harness.batch_clock import Timing
from benchmarks.harness.cases import Case
from benchmarks.peers.contender import Contender

CASE = Case("decode", 2, 24, 9)


class FakeContender:
    """Decodes at a given rate, and says when it is its turn."""

    def __init__(self, name: str, rate: float, turns: list[str]) -> None:
        self._name, self._rate, self._turns = name, rate, turns

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Timing:
        return Timing(prefill_s=1.0, decode_rate=self._rate, total_s=2.0)

    @contextmanager
    def turn(self) -> Iterator[None]:
        self._turns.append(self._name)
        yield


def test_pairs_come_in_either_order_and_the_first_only_warms_up() -> None:
    turns: list[str] = []
    old, new = FakeContender("old", 2.0, turns), FakeContender("new", 3.0, turns)
    ratios = ratios_of_pairs(CASE, cast(Contender, old), cast(Contender, new), 3, 100)
    assert ratios == [1.5] * 3
    assert turns == ["new", "old", "old", "new", "new", "old", "old", "new"]


def test_the_interval_is_students() -> None:
    """Of logarithms -h, 0, h the standard error is h / sqrt(3); t(0.975) of 2 degrees is 4.303."""
    mean, low, high = interval([1 / 1.1, 1.0, 1.1])
    assert mean == pytest.approx(1.0)
    assert low == pytest.approx(1.1 ** (-4.30265 / 3**0.5), rel=1e-5)
    assert high == pytest.approx(1 / low)


def test_what_is_no_checkout_or_no_sample_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, complaint in (
        (["/"], "/ is no checkout of FolovLLM"),
        ([".", "--pairs", "1"], "an interval takes at least 2 pairs"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert complaint in capsys.readouterr().err


def test_a_case_that_there_is_not_is_refused() -> None:
    here = str(Path(__file__).parents[3])
    with pytest.raises(SystemExit, match="no case's name begins with 'nonsense'; there are decode"):
        main([here, "--cases", "decode", "nonsense"])
