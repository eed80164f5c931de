"""FolovLLM's engine alone, stepped in this process: no service, no text."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness.batch_clock import BatchClock
from benchmarks.harness.open_loop import from_json
from benchmarks.peers.peer import PeerConfig
from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine_service.core.request import Request
from engine_service.engine.factory import build_engine
from engine_service.engine.llm_engine import LLMEngine
from folovllm.sampling_params import SamplingParams
from folovllm.version import __version__

_WARM_UP_STEPS = 4
# Each makes the contexts longer, which is put back only after the last.
_REPLAYS = 8
_MAX_KERNELS = 12


def engine_config(config: PeerConfig) -> EngineConfig:
    """Of an engine that does not speculate: the output of random weights repeats itself, so
    guessing it would tell nothing of real text."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cache = CacheConfig()
    if config.kv_tokens is not None:  # each sequence's last block is partly filled
        num_blocks = config.kv_tokens // cache.block_size_on(device) + config.max_num_seqs + 1
        cache = CacheConfig(num_blocks=num_blocks)
    return EngineConfig(
        ModelConfig(
            config.model,
            device=device,
            max_model_len=config.max_model_len if device == "cuda" else None,
            quantization=quantization(config.weight_format),
        ),
        cache,
        SchedulerConfig(max_num_seqs=config.max_num_seqs, speculation="none"),
    )


def quantization(weight_format: str) -> str:
    """ModelConfig's name of a weight format; random checkpoints are in bf16."""
    return "none" if weight_format == "bf16" else weight_format


def sampling(max_tokens: int, temperature: float = 0.0) -> SamplingParams:
    """So many tokens, whichever they are."""
    return SamplingParams(temperature=temperature, max_tokens=max_tokens, ignore_eos=True)


def open_engine(config: PeerConfig) -> "SteppedEngine":
    """Loads the checkpoint."""
    return SteppedEngine(build_engine(engine_config(config)))


class SteppedEngine:
    """An LLMEngine, stepped by hand."""

    version = __version__

    def __init__(self, engine: LLMEngine) -> None:
        self._engine = engine
        engine.warm_up()

    def complete(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """The tokens of all prompts, decoded greedily at once."""
        token_ids: list[list[int]] = [[] for _ in prompts]
        self._add_all(prompts, sampling(new_tokens))
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                token_ids[int(output.request_id)] += output.token_ids
        return token_ids

    def generate(self, prompts: list[list[int]], new_tokens: int) -> BatchClock:
        """See Peer."""
        clock = BatchClock(len(prompts))
        self._add_all(prompts, sampling(new_tokens))
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                clock.add(int(output.request_id), len(output.token_ids))
        return clock

    def serve(self, arrivals: list[Any], temperature: float = 0.0) -> list[list[float]]:
        """Starts each Arrival in its time; for each the seconds at which its tokens came."""
        waiting = from_json(arrivals)
        times: list[list[float]] = [[] for _ in waiting]
        started, num_added = time.perf_counter(), 0
        while num_added < len(waiting) or self._engine.has_unfinished_requests():
            now = time.perf_counter() - started
            while num_added < len(waiting) and waiting[num_added].time_s <= now:
                arrival = waiting[num_added]
                params = sampling(arrival.new_tokens, temperature)
                self._add(num_added, arrival.prompt_token_ids, params)
                num_added += 1
            if not self._engine.has_unfinished_requests():
                time.sleep(waiting[num_added].time_s - now)
                continue
            for output in self._engine.step():
                now = time.perf_counter() - started
                times[int(output.request_id)] += [now] * len(output.token_ids)
        return times

    def decode(self, prompts: list[list[int]], steps: int) -> list[float]:
        """Tokens a second of decode steps of the whole batch: the mean of so many.

        One step alone says little if the next is launched before it ends. A GPU adds the rate of
        the step's graph alone, replayed back to back.
        """
        batch = len(prompts)
        self._start_decoding(prompts, 2 * steps)
        for _ in range(_WARM_UP_STEPS):
            self._engine.step()
        num_tokens, started = 0, time.perf_counter()
        while num_tokens < steps * batch:
            num_tokens += sum(len(output.token_ids) for output in self._engine.step())
        rates = [num_tokens / (time.perf_counter() - started)]
        replay_time = getattr(self._engine.runner, "replay_time", None)
        if replay_time is not None:
            rates.append(batch / replay_time(batch, min(steps, _REPLAYS)))
        self._abort(batch)
        return rates

    def profile(self, prompts: list[list[int]], steps: int) -> dict[str, float]:
        """Seconds that a decode step of the whole batch spends in each kernel of the device, or on
        a CPU in each of torch's operators: those that take most."""
        self._start_decoding(prompts, 2 * steps)
        gpu = torch.cuda.is_available()
        activity = ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU
        with profile(activities=[activity]) as profiler:
            for _ in range(steps):
                self._engine.step()
            if gpu:
                torch.cuda.synchronize()
        self._abort(len(prompts))
        microseconds = Counter[str]()
        for event in profiler.key_averages():
            used = event.self_device_time_total if gpu else event.self_cpu_time_total
            microseconds[event.key] += used
        return {key: total / 1e6 / steps for key, total in microseconds.most_common(_MAX_KERNELS)}

    def _start_decoding(self, prompts: list[list[int]], num_steps: int) -> None:
        """Steps until all the prompts have a token each, and get one more in every step.

        Raises ValueError if the KV cache does not hold them for so many steps more.
        """
        engine, info = self._engine, self._engine.info
        capacity = info.num_kv_blocks * info.block_size
        needed = sum(map(len, prompts)) + len(prompts) * (num_steps + info.block_size)
        if needed > capacity:
            raise ValueError(f"the KV cache holds {capacity} tokens, and {needed} are needed")
        self._add_all(prompts, sampling(info.max_model_len - len(prompts[0])))
        waiting = {str(index) for index in range(len(prompts))}
        while waiting:
            waiting -= {output.request_id for output in engine.step() if output.token_ids}
        while len(engine.step()) < len(prompts):
            pass

    def _add_all(self, prompts: Sequence[list[int]], params: SamplingParams) -> None:
        for index, prompt in enumerate(prompts):
            self._add(index, prompt, params)

    def _add(self, index: int, prompt: list[int], params: SamplingParams) -> None:
        self._engine.add_request(Request(str(index), prompt, params, seed=index))

    def _abort(self, batch: int) -> None:
        for index in range(batch):
            self._engine.abort_request(str(index))
        while self._engine.has_unfinished_requests():
            self._engine.step()
