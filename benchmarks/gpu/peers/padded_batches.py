"""transformers' compiled `generate` over the requests: padded batches of alike output lengths."""

import time
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, BenchCase
from benchmarks.gpu.line import Line
from benchmarks.gpu.measures.requests import DrawnRequest, drawn_requests
from benchmarks.gpu.peers.transformers_model import generate_seconds, load
from benchmarks.gpu.targets import PEER_REQUESTS

SECTION = "batches"
_WARM_UP_S = 0.5
_COMPILING_S = 45.0


def cases(bench: Bench) -> list[BenchCase]:
    """As many batches as fit into the window."""
    name = f"{PEER_REQUESTS}, padded batches of {bench.plan.peer_batch}, compiled"
    expected_s = _COMPILING_S + bench.plan.peer_window_s if bench.device.type == "cuda" else 0.0
    return [BenchCase(name, partial(_lines, bench, name), expected_s)]


def _lines(bench: Bench, name: str) -> Iterator[Line]:
    plan, model = bench.plan, load(bench)
    requests = drawn_requests(plan.num_requests, *plan.request_tokens, bench.shape.vocab_size)
    batches = in_batches(requests, plan.peer_batch)
    longest = plan.request_tokens[1]
    # All batches have the longest one's cache, so that one step is compiled. A warm-up asks for all
    # of that and stops early.
    static = {"cache_implementation": "static"}
    ids, mask = _padded(batches[0], longest, bench.device)
    for _ in range(plan.peer_warm_ups):
        generate_seconds(model, ids, mask, longest, max_time=_WARM_UP_S, **static)
    seconds, tokens, done, started = 0.0, 0, 0, time.monotonic()
    for batch in batches:
        if time.monotonic() - started > plan.peer_window_s:
            break
        ids, mask = _padded(batch, longest, bench.device)
        new_tokens = max(request.new_tokens for request in batch)
        seconds += generate_seconds(model, ids, mask, new_tokens, **static)
        tokens += sum(request.new_tokens for request in batch)
        done += len(batch)
    yield Line(
        SECTION, name, seconds, tokens=tokens, note=f"{done} of {len(requests)} requests, greedy"
    )


def in_batches(requests: Sequence[DrawnRequest], size: int) -> list[list[DrawnRequest]]:
    """Of alike output lengths, so that few steps are wasted; those of middling lengths first.

    Then what was done when the time is over stands for the whole.
    """
    ordered = sorted(requests, key=lambda request: request.new_tokens)
    batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    middle = (len(batches) - 1) / 2
    order = sorted(range(len(batches)), key=lambda place: abs(place - middle))
    # The last one may be smaller, and another batch size would be compiled anew.
    return [batches[place] for place in order if len(batches[place]) == size]


def _padded(
    batch: Sequence[DrawnRequest], length: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Ids and mask, padded on the left."""
    ids = torch.zeros(len(batch), length, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, request in enumerate(batch):
        ids[row, length - len(request.prompt) :] = torch.tensor(request.prompt)
        mask[row, length - len(request.prompt) :] = 1
    return ids.to(device), mask.to(device)
