"""Bench: what a section of the GPU benchmark is measured with; BenchCase: one thing to measure."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.gpu.engine import SteppedEngine
from benchmarks.gpu.line import Line
from benchmarks.gpu.plan import GpuPlan
from benchmarks.harness.model_shape import ModelShape


@dataclass(frozen=True, slots=True)
class BenchCase:
    """Yields its lines as they are found."""

    name: str
    lines: Callable[[], Iterator[Line]]
    expected_s: float = 0.0
    """It is not begun where the section has less time left."""


class Bench:
    """Checkpoint, device and sizes. The sections of one process share one engine."""

    def __init__(self, folder: Path, device: torch.device, plan: GpuPlan) -> None:
        self.folder, self.device, self.plan = folder, device, plan
        self._engine: SteppedEngine | None = None
        self._failure: Exception | None = None

    @cached_property
    def shape(self) -> ModelShape:
        """The checkpoint's dimensions."""
        return ModelShape.from_folder(self.folder)

    @property
    def engine(self) -> SteppedEngine:
        """Built when it is first asked for, warm and without requests.

        Raises RuntimeError where that has failed before: trying again would take as long.
        """
        if self._failure is not None:
            raise RuntimeError("the engine could not be built") from self._failure
        if self._engine is None:
            try:
                self._engine = SteppedEngine.build(self.folder, self.device, self.plan)
            except Exception as error:
                self._failure = error
                raise
        self._engine.abort_all()
        return self._engine

    def drop_engine(self) -> None:
        """The next section gets a new one, as this one may hold anything."""
        self._engine = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
