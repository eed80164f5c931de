"""FolovLLM's engine alone, stepped in this process: no service, no text."""

import time

from benchmarks.harness.batch_clock import BatchClock
from benchmarks.harness.open_loop import Arrival
from benchmarks.peers.peer import PeerConfig
from engine_service.config import (
    CPU_BLOCK_SIZE,
    CacheConfig,
    EngineConfig,
    ModelConfig,
    SchedulerConfig,
)
from engine_service.core.request import Request
from engine_service.engine.factory import build_engine
from folovllm.sampling_params import SamplingParams
from folovllm.version import __version__

BLOCK_SIZE = CPU_BLOCK_SIZE


def open_peer(config: PeerConfig) -> "EngineInProcess":
    """Loads the checkpoint."""
    return EngineInProcess(config)


def num_blocks(config: PeerConfig) -> int:
    """KV blocks for the tokens of the configuration, each sequence's last block partly filled."""
    return config.kv_tokens // BLOCK_SIZE + config.max_num_seqs + 1


def quantization(weight_format: str) -> str:
    """ModelConfig's name of a weight format; random checkpoints are in bf16."""
    return "none" if weight_format == "bf16" else weight_format


def greedy(max_tokens: int) -> SamplingParams:
    """So many tokens, whichever they are."""
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)


class EngineInProcess:
    """An LLMEngine."""

    version = __version__

    def __init__(self, config: PeerConfig) -> None:
        # What random weights say repeats itself, so guessing it would tell nothing of real text.
        scheduler = SchedulerConfig(max_num_seqs=config.max_num_seqs, speculation="none")
        cache = CacheConfig(num_blocks=num_blocks(config))
        model = ModelConfig(config.model, quantization=quantization(config.weight_format))
        self._engine = build_engine(EngineConfig(model, cache, scheduler))
        self._engine.warm_up()

    def generate(self, prompts: list[list[int]], new_tokens: int) -> BatchClock:
        """See Peer."""
        clock = BatchClock(len(prompts))
        for place, prompt in enumerate(prompts):
            self._add(place, prompt, new_tokens)
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                clock.add(int(output.request_id), len(output.token_ids))
        return clock

    def serve(self, arrivals: list[list[object]]) -> list[list[float]]:
        """Takes each arrival in its time; for each the seconds at which its tokens came."""
        waiting = [Arrival.from_json(arrival) for arrival in arrivals]
        times: list[list[float]] = [[] for _ in waiting]
        started, taken = time.perf_counter(), 0
        while taken < len(waiting) or self._engine.has_unfinished_requests():
            now = time.perf_counter() - started
            while taken < len(waiting) and waiting[taken].time_s <= now:
                self._add(taken, waiting[taken].prompt_token_ids, waiting[taken].new_tokens)
                taken += 1
            if not self._engine.has_unfinished_requests():
                time.sleep(waiting[taken].time_s - now)
                continue
            for output in self._engine.step():
                now = time.perf_counter() - started
                times[int(output.request_id)] += [now] * len(output.token_ids)
        return times

    def close(self) -> None:
        """Nothing was started."""

    def _add(self, place: int, prompt: list[int], new_tokens: int) -> None:
        self._engine.add_request(Request(str(place), prompt, greedy(new_tokens), seed=0))
