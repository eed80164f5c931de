"""Which backend computes which family with which options, asked of the backends themselves.

`python -m tools.conformance` writes the table into docs/models.md, where a test compares it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from engine_service.layers.parallel import TensorParallel
from engine_service.models import cpu_decoder, gpu_decoder, torch_decoder
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.model_options import ModelOptions

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- written by tools/conformance.py -->", "<!-- end -->"

_SIZES = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "Qwen3": {"architectures": ["Qwen3ForCausalLM"]} | _SIZES,
    "Qwen2": {"architectures": ["Qwen2ForCausalLM"]} | _SIZES,
    "Llama": {"architectures": ["LlamaForCausalLM"]} | _SIZES,
    "Llama with biases": {"architectures": ["LlamaForCausalLM"]}
    | _SIZES
    | {"attention_bias": True, "mlp_bias": True},
}
"""A small config.json of each family, and of flags that backends treat differently."""

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "bfloat16": {},
    "float32": {"dtype": torch.float32},
    "int8": {"quantization": "int8"},
    "int4": {"quantization": "int4"},
    "deterministic": {"deterministic": True},
    "deterministic int4": {"deterministic": True, "quantization": "int4"},
    "2 ranks": {"parallel": TensorParallel(0, 2)},
    "fp8 KV cache": {"cache_dtype": "fp8"},
}


class Backend(NamedTuple):
    """A decoder on a device."""

    kernels: str
    device: str
    obstacle: Callable[[DecoderConfig, ModelOptions], str | None]


BACKENDS: Mapping[str, Backend] = {
    "plain torch, CPU": Backend("torch", "cpu", torch_decoder.obstacle),
    "CPU kernels": Backend("cpu", "cpu", cpu_decoder.obstacle),
    "plain torch, GPU": Backend("torch", "cuda", torch_decoder.obstacle),
    "GPU kernels": Backend("gpu", "cuda", gpu_decoder.obstacle),
}


class Cell(NamedTuple):
    """One combination, by its names; `reason` says why it is refused."""

    backend: str
    model: str
    option: str
    reason: str | None


def options_of(backend: str, option: str) -> ModelOptions:
    """For the backend's device."""
    options = ModelOptions(torch.bfloat16, torch.device(BACKENDS[backend].device))
    return replace(options, **OPTIONS[option])


def cells() -> Iterator[Cell]:
    """All combinations, a backend's and a model's one after the other."""
    for backend, (_, _, obstacle) in BACKENDS.items():
        for model, values in MODELS.items():
            config = DecoderConfig.from_json(values)
            for option in OPTIONS:
                reason = obstacle(config, options_of(backend, option))
                yield Cell(backend, model, option, reason)


def table() -> str:
    """In Markdown; refusals are numbered, and explained below."""
    rows: dict[tuple[str, str], list[str]] = {}
    reasons: dict[str, int] = {}
    for backend, model, _, reason in cells():
        number = reasons.setdefault(reason, len(reasons) + 1) if reason else None
        rows.setdefault((backend, model), []).append("yes" if number is None else f"no ({number})")
    lines = [["backend", "model", *OPTIONS], ["---"] * (2 + len(OPTIONS))]
    lines += [[*names, *row] for names, row in rows.items()]
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", *notes])


def main() -> None:
    """Puts the table between its marks."""
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
