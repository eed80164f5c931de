"""Ranks that are lost are noticed in time, those that are only idle are not lost."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch._C._distributed_c10d import HashStore
from torch.distributed import ProcessGroup

from engine_service.distributed import liveness as liveness_module
from engine_service.distributed.liveness import RankLiveness
from support.processes.rank_threads import make_group

MAX_SILENCE = 0.3


class Ranks:
    """Of one machine, as threads."""

    def __init__(self, size: int) -> None:
        store = HashStore()
        with ThreadPoolExecutor(size) as threads:
            self.groups: list[ProcessGroup] = list(
                threads.map(lambda rank: make_group(store, "liveness", rank, size), range(size))
            )
        self.lost: list[list[str]] = [[] for _ in range(size)]
        self.told = threading.Event()
        self.all = [
            RankLiveness(group, self._tell(lost), MAX_SILENCE)
            for group, lost in zip(self.groups, self.lost, strict=True)
        ]

    def _tell(self, lost: list[str]) -> Callable[[str], None]:
        def tell(reason: str) -> None:
            lost.append(reason)
            self.told.set()

        return tell


def test_ranks_that_run_are_not_lost() -> None:
    ranks = Ranks(3)
    for rank in ranks.all:
        rank.start()
    assert not ranks.told.wait(3 * MAX_SILENCE)
    for rank in ranks.all:
        rank.stop()
    assert not ranks.told.wait(MAX_SILENCE)


def test_a_rank_that_does_not_answer_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness_module, "_END_GRACE", 0.05)
    ranks = Ranks(2)
    ranks.all[0].start()  # and the other is stopped before it gets there
    began = time.monotonic()
    assert ranks.told.wait(20)
    assert time.monotonic() - began < 10
    assert "does not answer" in ranks.lost[0][0] and len(ranks.lost[0]) == 1


def test_a_rank_that_has_ended_as_all_do_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(2)
    ranks.all[0].start()
    time.sleep(MAX_SILENCE)  # it waits for the other by now
    ranks.all[0].stop()
    assert not ranks.told.wait(2 * MAX_SILENCE)
