"""transformers' continuous batching over the requests.

Without flash-attn, which nothing here installs, its attention packs the batch as one sequence with
a mask over all keys: a weak peer where many sequences are long, and named so in the table. It works
for a while, with so many requests at a time as serve it well, and what came by then counts.
"""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig

from benchmarks.gpu.bench import Bench, BenchCase
from benchmarks.gpu.line import Line
from benchmarks.gpu.measures.requests import DrawnRequest, drawn_requests
from benchmarks.gpu.peers.transformers_model import load
from benchmarks.gpu.targets import PEER_REQUESTS

SECTION = "continuous"
_BLOCK_TOKENS = 256
_STOP_S = 10.0


def cases(bench: Bench) -> list[BenchCase]:
    """All requests are given to it at once."""
    count = bench.plan.peer_concurrency
    name = f"{PEER_REQUESTS}, continuous batching, {count} at a time"
    return [BenchCase(name, partial(_lines, bench, name))]


def _lines(bench: Bench, name: str) -> Iterator[Line]:
    plan = bench.plan
    requests = drawn_requests(plan.num_requests, *plan.request_tokens, bench.shape.vocab_size)
    manager = _open(bench)
    try:
        _work(manager, [DrawnRequest(requests[0].prompt, 2)], plan.peer_window_s)
        seconds, tokens = _work(manager, requests, plan.peer_window_s)
    finally:
        manager.stop(block=True, timeout=_STOP_S, hard_stop=True)
    whole = sum(request.new_tokens for request in requests)
    yield Line(
        SECTION,
        name,
        seconds,
        tokens=tokens,
        note=f"paged sdpa, weak; {tokens / whole:.0%} of the tokens",
    )


def _open(bench: Bench) -> Any:
    plan = bench.plan
    longest = 2 * plan.request_tokens[1]
    blocks_of_request = -(-longest // _BLOCK_TOKENS) + 1
    # Named, or it would look for kernels on the network.
    manager = load(bench, attention="paged|sdpa").init_continuous_batching(
        generation_config=GenerationConfig(
            do_sample=True, temperature=0.6, top_k=0, eos_token_id=-1, max_new_tokens=longest
        ),
        continuous_batching_config=ContinuousBatchingConfig(
            num_blocks=plan.peer_concurrency * blocks_of_request,
            max_batch_tokens=plan.max_num_batched_tokens,
            max_requests_per_batch=plan.peer_concurrency,
            allow_block_sharing=False,
        ),
    )
    manager.start()
    return manager


def _work(manager: Any, requests: list[DrawnRequest], seconds: float) -> tuple[float, int]:
    """Until all is done, or the time is over: how long it took, and how many tokens came."""
    started = time.perf_counter()
    for request in requests:
        manager.add_request(request.prompt, max_new_tokens=request.new_tokens, streaming=True)
    tokens: dict[str, int] = {}
    unfinished, elapsed = len(requests), 0.0
    while unfinished and elapsed < seconds:
        result = manager.get_result(timeout=seconds - elapsed)
        elapsed = time.perf_counter() - started
        if result is not None:
            if result.error is not None:
                raise RuntimeError(result.error)
            tokens[result.request_id] = len(result.generated_tokens)
            unfinished -= result.is_finished()
        elif not manager.is_running():
            raise RuntimeError("the thread that generates has ended")
    return elapsed, sum(tokens.values())
