import ctypes
import gc
from collections.abc import Iterator

import pytest

from folovllm.serving.memory import collector_paused, settle_memory


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


def test_memory_settles_where_the_library_gives_nothing_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    settle_memory()
    assert gc.get_freeze_count() > 0
