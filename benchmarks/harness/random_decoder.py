"""Decoders with random weights in any shape, Qwen3-0.6B's by default, and steps to time with them.

Nothing is read from disk or downloaded: what a step costs does not depend on the weights' values.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from engine_service.core.outputs import ScheduledSequence, SchedulerOutput
from engine_service.layers.linear.packing import choose_packing
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.model_options import ModelOptions
from engine_service.models.torch_decoder import TorchDecoder
from engine_service.runner.model_runner import TorchModelRunner
from folovllm.sampling_params import SamplingParams

BLOCK_SIZE = 16
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QWEN3_0_6B = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "layers": 28,
    "heads": 16,
    "kv_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
}


@dataclass(frozen=True, slots=True)
class Case:
    """A step: so many sequences, each with `computed` tokens in the cache and `new` to compute."""

    name: str
    sequences: int
    computed: int
    new: int

    @property
    def blocks_of_sequence(self) -> int:
        """KV blocks that each sequence takes."""
        return -(-(self.computed + self.new) // BLOCK_SIZE)

    @property
    def num_blocks(self) -> int:
        """KV blocks that the step takes."""
        return self.sequences * self.blocks_of_sequence

    def step(self) -> SchedulerOutput:
        """The step, greedy; every sequence draws one token."""
        return SchedulerOutput(tuple(map(self._scheduled, range(self.sequences))))

    def _scheduled(self, row: int) -> ScheduledSequence:
        blocks = self.blocks_of_sequence
        return ScheduledSequence(
            seq_id=row,
            token_ids=[1] * self.new,
            num_computed_tokens=self.computed,
            block_table=range(row * blocks, (row + 1) * blocks),
            sampling_params=SamplingParams(temperature=0.0),
            seed=0,
            sample_indexes=(0,),
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the shape, and dtype, device and threads."""
    for name, value in QWEN3_0_6B.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--dtype", choices=_DTYPES, default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def decoder_config(args: argparse.Namespace, max_model_len: int) -> DecoderConfig:
    """The config of the shape that the options name."""
    values = {
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": args.vocab_size,
        "hidden_size": args.hidden_size,
        "intermediate_size": args.intermediate_size,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "num_key_value_heads": args.kv_heads,
        "head_dim": args.head_dim,
        "max_position_embeddings": max_model_len,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": args.dtype,
        "eos_token_id": 0,
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(values))
        return DecoderConfig.from_folder(Path(folder))


def random_decoder(
    config: DecoderConfig, dtype: str, device: torch.device, deterministic: bool = False
) -> TorchDecoder:
    """A decoder whose weights are normal numbers, packed as the loader packs them."""
    options = ModelOptions(_DTYPES[dtype], device, deterministic=deterministic)
    decoder = TorchDecoder(config, options)
    decoder.allocate()
    for parameter in decoder.parameters():
        parameter.normal_(std=0.02)
    packing = None if deterministic else choose_packing(decoder.dtype, device)
    if packing is not None:
        decoder.pack(packing, packing)
    return decoder


def filled_runner(decoder: TorchDecoder, num_blocks: int) -> TorchModelRunner:
    """A runner with a KV pool of numbers; memory that was never written may be NaN.

    It computes one block of KV and copies it to all.
    """
    runner = TorchModelRunner(decoder, num_blocks, BLOCK_SIZE)
    runner.execute(Case("first block", 1, 0, BLOCK_SIZE).step())
    copies = tuple((0, block_id) for block_id in range(1, num_blocks))
    runner.execute(SchedulerOutput((), copies))
    return runner
