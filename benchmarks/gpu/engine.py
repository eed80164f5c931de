"""SteppedEngine: our engine in this process, stepped by hand over random prompts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from benchmarks.gpu.plan import GpuPlan
from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine_service.core.request import Request
from engine_service.engine.factory import build_engine
from engine_service.engine.llm_engine import LLMEngine
from folovllm.outputs import CompletionOutput
from folovllm.sampling_params import SamplingParams


@runtime_checkable
class Replayer(Protocol):
    """A model runner whose decode steps are CUDA graphs."""

    def replay_time(self, batch: int, steps: int) -> float:
        """Seconds of one decode step, of so many of the latest batch that are replayed back to back
        with nothing from the host between them. The sequences are as before afterwards."""
        ...


class SteppedEngine:
    """An LLMEngine, the names of its requests, and no prompt twice, so that no cache helps."""

    def __init__(self, engine: LLMEngine) -> None:
        self._engine = engine
        self._generator = torch.Generator().manual_seed(0)
        self._names: dict[str, int] = {}
        """Of requests that may still run, each with the tokens that it has."""
        self._num_added = 0

    @classmethod
    def build(cls, folder: Path, device: torch.device, plan: GpuPlan) -> "SteppedEngine":
        """Loads the checkpoint and warms the engine up."""
        # What random weights say repeats itself, so guessing it would tell nothing of real text.
        scheduler = SchedulerConfig(
            max_num_seqs=plan.max_num_seqs,
            max_num_batched_tokens=plan.max_num_batched_tokens,
            speculation="none",
        )
        config = EngineConfig(
            ModelConfig(str(folder), "bfloat16", str(device), plan.max_model_len),
            CacheConfig(plan.block_size, plan.num_blocks),
            scheduler,
        )
        engine = build_engine(config)
        engine.warm_up()
        return cls(engine)

    @property
    def vocab_size(self) -> int:
        """Ids are below it."""
        return self._engine.info.vocab_size

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV pool holds."""
        return self._engine.info.num_kv_blocks * self._engine.info.block_size

    def add(self, prompt: Sequence[int], params: SamplingParams) -> str:
        """A request by its name."""
        name = str(self._num_added)
        self._num_added += 1
        self._engine.add_request(Request(name, prompt, params, seed=self._num_added))
        self._names[name] = len(prompt)
        return name

    def add_random(self, batch: int, prompt_tokens: int, params: SamplingParams) -> list[str]:
        """So many requests with prompts that nobody has seen."""
        size = (batch, prompt_tokens)
        prompts = torch.randint(self.vocab_size, size, generator=self._generator).tolist()
        return [self.add(prompt, params) for prompt in prompts]

    def num_tokens(self, name: str) -> int:
        """Tokens that a running request has."""
        return self._names[name]

    def step(self) -> list[CompletionOutput]:
        """One step of the engine."""
        outputs = self._engine.step()
        for output in outputs:
            self._names[output.request_id] += len(output.token_ids)
            if output.finish_reason is not None:
                del self._names[output.request_id]
        return outputs

    def run(self) -> None:
        """Steps until nothing is left to do."""
        while self.busy:
            self.step()

    def step_until_decoding(self, names: Sequence[str]) -> None:
        """Steps until all the requests have given a token each and do so in every step."""
        waiting = set(names)
        while waiting:
            waiting -= {output.request_id for output in self.step() if output.token_ids}
        while len(self.step()) < len(names):
            pass

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return self._engine.has_unfinished_requests()

    def abort(self, names: Sequence[str]) -> None:
        """Ends requests that run."""
        for name in names:
            self._engine.abort_request(name)
            del self._names[name]

    def abort_all(self) -> None:
        """Ends whatever runs."""
        self.abort(list(self._names))
        self.run()

    def replay_seconds(self, batch: int, steps: int) -> float | None:
        """See Replayer; None where steps are no graphs."""
        runner = self._engine.runner
        return runner.replay_time(batch, steps) if isinstance(runner, Replayer) else None


def decoding(max_tokens: int) -> SamplingParams:
    """Greedy, so many tokens, whichever they are."""
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
