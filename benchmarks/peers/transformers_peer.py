"""transformers' `generate`, in bf16."""

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer

from benchmarks.harness.batch_clock import BatchClock
from benchmarks.peers.peer import PeerConfig


class Transformers:
    """A model of transformers, on the GPU if there is one."""

    version = transformers.__version__
    _options: Mapping[str, str] = {}

    def __init__(self, config: PeerConfig) -> None:
        if config.weight_format != "bf16":
            raise ValueError("transformers is measured in bf16 alone")
        torch.set_num_threads(config.threads)
        model: Any = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.bfloat16)
        self._model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        # Without an end-of-sequence id nothing ends early, and no step pays for masking it.
        self._model.generation_config.eos_token_id = None

    def generate(self, prompts: list[list[int]], new_tokens: int) -> BatchClock:
        """See Peer; the prompts must be of one length."""
        ids = torch.tensor(prompts, device=self._model.device)
        streamer = _Streamer(len(prompts))
        self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            streamer=streamer,
            **self._options,
        )
        return streamer.clock


class CompiledTransformers(Transformers):
    """With a static cache; then `generate` compiles its decode step and replays a CUDA graph."""

    _options = {"cache_implementation": "static"}


class _Streamer(BaseStreamer):
    """Gets the prompts first, then each step's tokens."""

    def __init__(self, batch: int) -> None:
        self.clock = BatchClock(batch)
        self._batch = batch
        self._prompts_passed = False

    def put(self, value: object) -> None:
        if self._prompts_passed:
            for sequence in range(self._batch):
                self.clock.add(sequence)
        self._prompts_passed = True

    def end(self) -> None:
        pass
