"""How calls are timed: on a device that is made of fakes, and by the clock."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch

from benchmarks.gpu.timing import num_input_sets, time_calls

MICROSECOND = 1e-6
CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")


class FakeDevice:
    """Time that passes by what was launched, in microseconds."""

    def __init__(self, captures: bool = True) -> None:
        self.now, self.captures = 0.0, captures
        self.capturing: list[float] | None = None
        self.graph_lengths: list[int] = []

    def kernel(self, microseconds: float) -> None:
        if self.capturing is None:
            self.now += microseconds
        else:
            self.capturing.append(microseconds)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        device = self

        class Graph:
            def __init__(self) -> None:
                self.kernels: list[float] = []

            def replay(self) -> None:
                device.now += sum(self.kernels)

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.time = device.now

            def synchronize(self) -> None:
                pass

            def elapsed_time(self, end: "Event") -> float:
                return (end.time - self.time) / 1e3

        @contextlib.contextmanager
        def capture(graph: Graph) -> Iterator[None]:
            if not device.captures:
                raise RuntimeError("operation not permitted when stream is capturing")
            device.capturing = graph.kernels
            yield
            device.capturing = None
            device.graph_lengths.append(len(graph.kernels))

        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "graph", capture)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)

    def calls(self, microseconds: float, count: int) -> list[Callable[[], object]]:
        return [lambda: self.kernel(microseconds)] * count


def test_a_graph_of_many_short_calls_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    device.install(monkeypatch)

    timing = time_calls(device.calls(2.0, 4), CUDA)

    assert timing.captured
    assert timing.seconds == pytest.approx(2 * MICROSECOND)
    # A millisecond's worth, so that the events weigh nothing.
    assert device.graph_lengths == [4, 500]


def test_long_calls_are_captured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    device.install(monkeypatch)

    timing = time_calls(device.calls(3000.0, 2), CUDA)

    assert timing.seconds == pytest.approx(3000 * MICROSECOND)
    assert device.graph_lengths == [2]


def test_a_call_that_cannot_be_captured_is_timed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice(captures=False)
    device.install(monkeypatch)

    timing = time_calls(device.calls(5.0, 3), CUDA)

    assert not timing.captured
    assert timing.seconds == pytest.approx(5 * MICROSECOND)


def test_the_clock_times_a_cpu() -> None:
    called = []
    timing = time_calls([lambda: called.append(1), lambda: called.append(2)], CPU, seconds=0.0)
    assert timing.seconds > 0 and not timing.captured
    assert called == [1, 2, 1, 2]  # once before, and once that counts


def test_inputs_do_not_fit_into_the_cache() -> None:
    l2 = 60 * 2**20
    assert num_input_sets(4 * 2**20, l2) == 31
    assert num_input_sets(2 * 2**30, l2) == 2
    assert num_input_sets(1000, l2) == 64
    assert num_input_sets(1000, 0) == 1
