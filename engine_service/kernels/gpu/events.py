"""Moments in the order of what a GPU does: to wait for them, and to measure between them."""

import torch


def record(timing: bool = False) -> torch.cuda.Event:
    """The moment when all is done that was launched on the present stream so far.

    Only between moments with `timing` can be measured.
    """
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=timing)
    event.record()
    return event


def seconds(start: torch.cuda.Event, end: torch.cuda.Event) -> float:
    """Between two moments; waits for the later one, `end`."""
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000
