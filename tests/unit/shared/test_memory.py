import ctypes
import gc
from collections.abc import Iterator

import pytest

from folovllm.serving.memory.settling import (
    collector_paused,
    keep_large_blocks_apart,
    settle_memory,
)


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()
    gc.enable()


def test_the_collector_rests_within_the_block_and_never_searches_what_came_in_it() -> None:
    with collector_paused():
        assert not gc.isenabled()
        modules: list[list[object]] = [[]]
    assert gc.isenabled()
    assert not any(each is modules for each in gc.get_objects())


def test_the_collector_works_again_after_an_import_that_fails() -> None:
    with pytest.raises(ImportError), collector_paused():
        raise ImportError
    assert gc.isenabled()


def test_what_is_there_when_memory_settles_is_never_searched() -> None:
    model: list[list[object]] = [[]]
    settle_memory()
    assert not any(each is model for each in gc.get_objects())


def test_what_a_burst_of_calls_holds_is_not_all_searched_while_it_grows() -> None:
    gc.collect()
    settle_memory()
    before = gc.get_stats()[2]["collections"]
    held = [[number] for number in range(200_000)]
    assert gc.get_stats()[2]["collections"] == before
    del held


class FakeLibrary:
    """A GNU C library that only keeps count."""

    num_trims = 0
    options: tuple[int, int] | None = None

    def malloc_trim(self, pad: int) -> None:
        self.num_trims += 1

    def mallopt(self, option: int, value: int) -> None:
        self.options = (option, value)


def test_freed_memory_goes_back_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeLibrary()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    settle_memory()
    keep_large_blocks_apart()
    assert (library.num_trims, library.options) == (1, (-3, 128 * 1024))


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    settle_memory()
    keep_large_blocks_apart()
    assert gc.get_freeze_count() > 0
