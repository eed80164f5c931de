"""Which sessions are told of the load, and how many at a time."""

from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest

from engine_service.engine.async_engine import AsyncEngine
from engine_service.rpc.load_reports import LoadReporter, LoadReports
from support.fakes.engine_factory import make_engine

A_ROUND = 10


class Front:
    """A session as far as it is told of the load."""

    def __init__(self, reports: LoadReports, number: int, told: list[int]) -> None:
        self.reporter = LoadReporter(reports, lambda: told.append(number))


class Fronts:
    """Many sessions of one engine whose load the test changes."""

    def __init__(self, engine: AsyncEngine, number: int) -> None:
        self.engine = engine
        self.reports = LoadReports(engine)
        self.told: list[int] = []
        self.all = [Front(self.reports, i, self.told) for i in range(number)]
        self.open = ExitStack()
        for front in self.all:
            self.open.enter_context(front.reporter.watching())
            assert front.reporter.changed_load() is not None

    def change(self) -> None:
        self.engine._notify_load_watchers()

    def round(self) -> list[int]:
        """Lets the timer be over if one runs; returns who is told then."""
        self.told.clear()
        timer = self.reports._timer
        if timer is not None:
            timer.cancel()
            self.reports._report()
        return list(self.told)


@pytest.fixture
async def engine() -> AsyncIterator[AsyncEngine]:
    yield AsyncEngine(lambda: make_engine()[0], None)


async def test_a_few_are_told_of_each_change_at_once(engine: AsyncEngine) -> None:
    fronts = Fronts(engine, A_ROUND)
    assert fronts.round() == []
    for _ in range(3):
        fronts.change()
        assert sorted(fronts.round()) == list(range(A_ROUND))
        assert fronts.round() == [] and fronts.reports._timer is None


async def test_many_are_told_in_turn(engine: AsyncEngine) -> None:
    fronts = Fronts(engine, 35)
    fronts.change()
    rounds = [fronts.round() for _ in range(5)]
    assert [len(told) for told in rounds] == [10, 10, 10, 5, 0]
    assert sorted(sum(rounds, [])) == list(range(35))
    assert fronts.reports._timer is None
    # However often it changes, no round has more, and all have their turn.
    rounds = []
    for _ in range(7):
        for _ in range(100):
            fronts.change()
        rounds.append(fronts.round())
    assert [len(told) for told in rounds] == [10] * 7
    assert sorted(sum(rounds, [])[:35]) == list(range(35))


async def test_who_knows_it_already_is_not_told_again(engine: AsyncEngine) -> None:
    fronts = Fronts(engine, 25)
    fronts.change()
    for front in fronts.all[:20]:  # with outputs, for example
        assert front.reporter.changed_load() is None  # a change there and back
    assert fronts.round() == list(range(20, 25))


async def test_who_cannot_write_keeps_no_one_waiting(engine: AsyncEngine) -> None:
    fronts = Fronts(engine, 20)
    fronts.change()
    stuck = fronts.round()
    fronts.change()
    assert sorted(stuck + fronts.round()) == list(range(20))


async def test_who_has_left_is_not_told_and_the_last_one_stops_the_timer(
    engine: AsyncEngine,
) -> None:
    fronts = Fronts(engine, 3)
    fronts.change()
    assert fronts.reports._timer is not None
    fronts.open.close()
    assert fronts.reports._timer is None and not engine._load_watchers
    with fronts.all[1].reporter.watching():
        fronts.change()
        assert fronts.round() == [1]
