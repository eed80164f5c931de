"""Events in a GPU's stream: to wait for them, and to measure the time between them."""

import torch


def record(timing: bool = False) -> torch.cuda.Event:
    """An event after all that was launched on the present stream so far.

    Time can be measured only between events with `timing`.
    """
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=timing)
    event.record()
    return event


def seconds(start: torch.cuda.Event, end: torch.cuda.Event) -> float:
    """Between two events; waits for the later one, `end`."""
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000
