"""ModelShape: a decoder's dimensions, and the bytes and operations that they make necessary."""

from dataclasses import dataclass
from pathlib import Path

from folovllm.model_files import read_json

_BF16_BYTES = 2
# By weight format, of the matrices that a token is multiplied with. int4 has a bf16 scale for each
# group of 32; int8's scales, one a row, weigh nothing.
_WEIGHT_BYTES = {"bf16": 2.0, "int8": 1.0, "int4": 0.5 + _BF16_BYTES / 32}
WEIGHT_FORMATS = tuple(_WEIGHT_BYTES)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The dimensions by their names in config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int

    @classmethod
    def from_folder(cls, folder: Path) -> "ModelShape":
        """Reads config.json. Raises ConfigError."""
        config = read_json(folder / "config.json")
        return cls(**{name: int(str(config[name])) for name in cls.__dataclass_fields__})

    @property
    def matrix_elements(self) -> int:
        """Weights that each generated token is multiplied with, the output layer's included."""
        return self._layer_elements * self.num_hidden_layers + self.hidden_size * self.vocab_size

    @property
    def kv_bytes(self) -> int:
        """Bytes of KV cache a token, in bf16."""
        width = self.num_key_value_heads * self.head_dim
        return 2 * width * self.num_hidden_layers * _BF16_BYTES

    def weight_bytes(self, weight_format: str) -> float:
        """Bytes of weights that a decode step reads, whatever the batch."""
        return self.matrix_elements * _WEIGHT_BYTES[weight_format]

    def decode_bytes(self, context_lengths: tuple[int, ...], weight_format: str) -> float:
        """Bytes that a decode step of sequences with so many tokens must read."""
        return self.weight_bytes(weight_format) + sum(context_lengths) * self.kv_bytes

    def prefill_operations(self, prompt_lengths: tuple[int, ...]) -> float:
        """Floating point operations of prompts: matrices, and attention to what came before.

        Only each prompt's last token needs the output layer. A token at position p of one head
        costs 2 · head_dim operations a key for the scores, and as many for the sum.
        """
        attended = sum(length * (length + 1) / 2 for length in prompt_lengths)
        width = self.num_attention_heads * self.head_dim
        return self.num_hidden_layers * (
            2 * self._layer_elements * sum(prompt_lengths) + 4 * width * attended
        ) + 2 * self.hidden_size * self.vocab_size * len(prompt_lengths)

    @property
    def _layer_elements(self) -> int:
        queries = self.num_attention_heads * self.head_dim
        keys = self.num_key_value_heads * self.head_dim
        attention = self.hidden_size * (2 * queries + 2 * keys)
        return attention + 3 * self.hidden_size * self.intermediate_size
