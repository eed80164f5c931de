"""Tuner: measures once which of several kernels is the fastest on this GPU.

Results are kept in a file in the user's cache folder, by the GPU's name and the versions of torch
and Triton, so only the first start takes the time. Without a GPU the first kernel is used.
"""

import json
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
import triton

from engine_service.kernels.gpu import events
from folovllm.installation.trusted_files import distrust, make_private, make_private_folder

log = logging.getLogger(__name__)

_Choice = TypeVar("_Choice")
_REPEATS = 5


class Tuner:
    """`folder` holds the file; None keeps nothing."""

    def __init__(self, device: torch.device, folder: Path | None) -> None:
        self._device = device
        self._path: Path | None = None
        self._known: dict[str, str] = {}
        if device.type == "cuda" and folder is not None:
            name = torch.cuda.get_device_name(device).replace(" ", "-")
            versions = f"torch-{torch.__version__}-triton-{triton.__version__}"
            self._path = folder / f"{name}-{versions}.json"
            self._known = _read(self._path)

    def fastest(
        self, question: str, choices: Sequence[_Choice], run: Callable[[_Choice], object]
    ) -> _Choice:
        """The choice whose run takes the minimum time on the device.

        `question` names what is computed and on what; the answer is kept under it. `run` launches
        the work, which may be captured in a graph. A choice that cannot run, for lack of shared
        memory say, is skipped.
        """
        if self._device.type != "cuda":
            return choices[0]
        by_name = {str(choice): choice for choice in choices}
        known = self._known.get(question)
        if known in by_name:
            return by_name[known]
        times = {choice: _time(partial(run, choice)) for choice in choices}
        best = min(choices, key=lambda choice: times[choice])
        self._known[question] = str(best)
        log.debug("%s: %s", question, {str(choice): f"{us:.1f} us" for choice, us in times.items()})
        return best

    def save(self) -> None:
        """Writes the results, if there is a file; another process's are kept."""
        if self._path is None:
            return
        try:
            make_private_folder(self._path.parent)
            own = self._path.with_suffix(f".{os.getpid()}")
            own.write_text(json.dumps(_read(self._path) | self._known, indent=1, sort_keys=True))
            make_private(own)
            own.replace(self._path)
        except OSError as error:
            log.warning("cannot write the tuning results to %s: %s", self._path, error)


def _read(path: Path) -> dict[str, str]:
    if path.is_file() and (reason := distrust(path)):
        log.warning("the tuning results in %s are not used: %s", path, reason)
        return {}
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _time(run: Callable[[], object]) -> float:
    """Microseconds of a run, as a graph's replay; infinite if it fails."""
    try:
        run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
    except (RuntimeError, triton.TritonError) as error:
        log.debug("skipped: %s", error)
        return float("inf")
    graph.replay()
    moments = [events.record(timing=True)]
    for _ in range(_REPEATS):
        graph.replay()
        moments.append(events.record(timing=True))
    moments[-1].synchronize()
    return 1e6 * min(map(events.seconds, moments, moments[1:]))
