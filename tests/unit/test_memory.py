import ctypes
import gc
from collections.abc import Iterator

import pytest

from folovllm.serving.memory import collector_paused, large_blocks_apart, settle_memory


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
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


class FakeLibrary:
    """A GNU C library that only keeps count."""

    def __init__(self) -> None:
        self.settings: dict[int, int] = {}
        self.num_trims = 0

    def mallopt(self, parameter: int, value: int) -> None:
        self.settings[parameter] = value

    def malloc_trim(self, pad: int) -> None:
        self.num_trims += 1


def test_large_blocks_are_mapped_only_while_weights_are_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = FakeLibrary()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    mmap_threshold = -3
    with pytest.raises(OSError), large_blocks_apart():
        while_loading = library.settings[mmap_threshold]
        raise OSError("the weights cannot be read")
    assert while_loading < library.settings[mmap_threshold]
    settle_memory()
    assert library.num_trims == 1


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    with large_blocks_apart():
        pass
    settle_memory()
    assert gc.get_freeze_count() > 0
