"""RankLiveness: notices that another rank has ended, or does not run any more, idle or not.

A rank that waits for others would wait for ever: an engine may be idle for any time. So a thread of
each rank meets those of all others again and again. What they exchange says nothing but that their
processes run; a step that does not end is the watchdog's.
"""

import threading
from collections.abc import Callable
from datetime import timedelta

import torch
from torch._C._distributed_c10d import AllreduceOptions
from torch.distributed import ProcessGroup

_MEETINGS = 6  # in the longest silence
# Seconds in which a rank whose neighbours have ended may end as they did.
_END_GRACE = 5.0


class RankLiveness:
    """One rank's end of it. `group` exchanges CPU tensors, and is used by nothing else."""

    def __init__(
        self, group: ProcessGroup, on_lost: Callable[[str], object], max_silence: float
    ) -> None:
        """A rank that is silent for `max_silence` seconds is lost.

        `on_lost` is called once, with what happened, by the thread of every other rank.
        """
        self._group = group
        self._on_lost = on_lost
        self._max_silence = max_silence
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="liveness", daemon=True)

    def start(self) -> None:
        """From now on."""
        self._thread.start()

    def stop(self) -> None:
        """No more: others may end from now on."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._max_silence / _MEETINGS):
            try:
                self._meet()
            except RuntimeError as error:
                if not self._stopped.wait(min(_END_GRACE, self._max_silence)):
                    reason = str(error).splitlines()[0]
                    self._on_lost(f"another rank has ended or does not answer: {reason}")
                return

    def _meet(self) -> None:
        options = AllreduceOptions()
        options.timeout = timedelta(seconds=self._max_silence)
        self._group.allreduce([torch.zeros(1)], options).wait()
