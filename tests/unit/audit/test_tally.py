"""Counts of verified requests, of one process or of several together."""

import fcntl
from tempfile import TemporaryFile

import pytest

from tokenizer_service.audit.tally import Tally, Verified


def test_each_engine_has_its_counts() -> None:
    tally = Tally(["a", "b"])
    tally.add("a", True)
    tally.add("a", False)
    tally.add("unknown", True)
    assert [tally.of(each) for each in ("a", "b", "unknown")] == [
        Verified(2, 1),
        Verified(),
        Verified(),
    ]


def test_several_processes_count_together_and_none_waits() -> None:
    with TemporaryFile(buffering=0) as shared:
        one, other = (Tally(["a", "b"], shared.fileno()) for _ in range(2))
        one.add("a", False)
        other.add("a", True)
        other.add("b", False)
        assert one.of("a") == other.of("a") == Verified(2, 1)
        assert one.of("b") == Verified(1, 0)


def test_it_does_not_wait_for_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, how: int) -> None:
        assert how & fcntl.LOCK_NB
        raise BlockingIOError

    with TemporaryFile(buffering=0) as shared:
        tally = Tally(["a"], shared.fileno())
        with monkeypatch.context() as held:
            held.setattr(fcntl, "lockf", refuse)
            tally.add("a", True)
            assert tally.of("a") == Verified(1, 1)
        assert Tally(["a"], shared.fileno()).of("a") == Verified()
        assert tally.of("a") == Verified(1, 1)
        assert Tally(["a"], shared.fileno()).of("a") == Verified(1, 1)
