"""How much memory published models need, by the format of their weights.

`python -m tools.model_memory` writes the table into docs/models.md, where a test compares it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness.model_shape import WEIGHT_FORMATS, ModelShape, bytes_of_weight

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- written by tools/model_memory.py -->", "<!-- end of memory -->"

_KV_TOKENS = 1000


class Published(NamedTuple):
    """What a model's config.json says."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    tied: bool

    @property
    def shape(self) -> ModelShape:
        """Its dimensions alone."""
        return ModelShape(*self[:7])

    @property
    def num_parameters(self) -> int:
        """Of all matrices; norms and biases are not a thousandth of them."""
        embedding = 0 if self.tied else self.hidden_size * self.vocab_size
        return self.shape.matrix_elements + embedding


_ROWS = {
    "Qwen3-0.6B": (1024, 3072, 28, 16, 8, 128, 151936, 40960, True),
    "Qwen3-1.7B": (2048, 6144, 28, 16, 8, 128, 151936, 40960, True),
    "Qwen3-4B": (2560, 9728, 36, 32, 8, 128, 151936, 40960, True),
    "Qwen3-8B": (4096, 12288, 36, 32, 8, 128, 151936, 40960, False),
    "Qwen3-14B": (5120, 17408, 40, 40, 8, 128, 151936, 40960, False),
    "Qwen3-32B": (5120, 25600, 64, 64, 8, 128, 151936, 40960, False),
    "Qwen2.5-0.5B-Instruct": (896, 4864, 24, 14, 2, 64, 151936, 32768, True),
    "Qwen2.5-1.5B-Instruct": (1536, 8960, 28, 12, 2, 128, 151936, 32768, True),
    "Qwen2.5-3B-Instruct": (2048, 11008, 36, 16, 2, 128, 151936, 32768, True),
    "Qwen2.5-7B-Instruct": (3584, 18944, 28, 28, 4, 128, 152064, 32768, False),
    "Qwen2.5-14B-Instruct": (5120, 13824, 48, 40, 8, 128, 152064, 32768, False),
    "Qwen2.5-32B-Instruct": (5120, 27648, 64, 40, 8, 128, 152064, 32768, False),
    "Llama-3.2-1B-Instruct": (2048, 8192, 16, 32, 8, 64, 128256, 131072, True),
    "Llama-3.2-3B-Instruct": (3072, 8192, 28, 24, 8, 128, 128256, 131072, True),
    "Llama-3.1-8B-Instruct": (4096, 14336, 32, 32, 8, 128, 128256, 131072, False),
    "Llama-3.3-70B-Instruct": (8192, 28672, 80, 64, 8, 128, 128256, 131072, False),
    "SmolLM2-135M-Instruct": (576, 1536, 30, 9, 3, 64, 49152, 8192, True),
    "SmolLM2-360M-Instruct": (960, 2560, 32, 15, 5, 64, 49152, 8192, True),
    "SmolLM2-1.7B-Instruct": (2048, 8192, 24, 32, 32, 64, 49152, 8192, True),
}
MODELS: Mapping[str, Published] = {name: Published(*row) for name, row in _ROWS.items()}
"""By their names on the hub."""


def table() -> str:
    """In Markdown, in units of a billion bytes, and of a million for the KV cache."""
    on_cpu = [f"CPU, {each}" for each in WEIGHT_FORMATS]
    heads = ["model", "parameters", "GPU, bf16", *on_cpu, "KV of 1,000 tokens", "context"]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name, model in MODELS.items():
        # On a CPU the embedding has its own memory, even if the output layer is tied to it.
        rows = 2 * model.hidden_size * model.vocab_size
        sizes = (
            rows + model.shape.weight_bytes(bytes_of_weight("folovllm", each))
            for each in WEIGHT_FORMATS
        )
        lines.append(
            [
                name,
                f"{model.num_parameters / 1e9:.2f} B",
                _gigabytes(2 * model.num_parameters),
                *map(_gigabytes, sizes),
                f"{_KV_TOKENS * model.shape.kv_bytes / 1e6:.0f} MB",
                f"{model.max_position_embeddings:,}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes < 1e10 else f"{num_bytes / 1e9:.1f} GB"


def main() -> None:
    """Puts the table between its marks."""
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
