"""ModelShape: a decoder's dimensions, and the bytes and operations that they make necessary."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from folovllm.model_files import read_json

_BF16_BYTES = 2
_SCALE = 2 / 32  # 16 bits for each group of 32 weights


class WeightBytes(NamedTuple):
    """Bytes of one weight. Scales of whole rows weigh nothing."""

    layer: float
    head: float
    """Of the output layer."""


# int4 is in groups of 32 with the output layer in int8, as here and in OpenVINO.
_BYTES = {
    "bf16": WeightBytes(2.0, 2.0),
    "int8": WeightBytes(1.0, 1.0),
    "int4": WeightBytes(0.5 + _SCALE, 1.0),
}
# Q8_0 has groups too, and Q4_0 is for the output layer as well.
_LLAMA_CPP_BYTES = {
    "int8": WeightBytes(1.0 + _SCALE, 1.0 + _SCALE),
    "int4": WeightBytes(0.5 + _SCALE, 0.5 + _SCALE),
}
WEIGHT_FORMATS = tuple(_BYTES)
BF16 = _BYTES["bf16"]


def bytes_of_weight(engine: str, weight_format: str) -> WeightBytes:
    """What an engine reads in one of WEIGHT_FORMATS."""
    if engine == "llama_cpp":
        return _LLAMA_CPP_BYTES.get(weight_format, _BYTES[weight_format])
    return _BYTES[weight_format]


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
        return self._layer_elements * self.num_hidden_layers + self._head_elements

    @property
    def kv_bytes(self) -> int:
        """Bytes of KV cache a token, in bf16."""
        width = self.num_key_value_heads * self.head_dim
        return 2 * width * self.num_hidden_layers * _BF16_BYTES

    def weight_bytes(self, weight: WeightBytes = BF16) -> float:
        """Bytes of weights that a decode step reads, whatever the batch."""
        layers = self._layer_elements * self.num_hidden_layers
        return layers * weight.layer + self._head_elements * weight.head

    def decode_bytes(self, context_lengths: Sequence[int], weight: WeightBytes = BF16) -> float:
        """Bytes that a decode step of sequences with so many tokens must read."""
        return self.weight_bytes(weight) + sum(context_lengths) * self.kv_bytes

    def generation_bytes(self, requests: Sequence[tuple[int, int]]) -> float:
        """Of all steps that requests, as (prompt tokens, new tokens), need when all run together.

        A new token, except a request's first, reads the KV of all tokens before it. There are as
        many steps as the longest output has tokens, and each reads the weights.
        """
        tokens = sum((new - 1) * prompt + new * (new - 1) // 2 for prompt, new in requests)
        steps = max(new for _, new in requests)
        return tokens * self.kv_bytes + steps * self.weight_bytes()

    def prefill_operations(self, prompt_lengths: Sequence[int]) -> float:
        """Floating point operations of prompts: matrices, and attention to what came before.

        Only each prompt's last token needs the output layer. A token at position p of one head
        costs 2 · head_dim operations a key for the scores, and as many for the sum.
        """
        attended = sum(length * (length + 1) / 2 for length in prompt_lengths)
        width = self.num_attention_heads * self.head_dim
        return self.num_hidden_layers * (
            2 * self._layer_elements * sum(prompt_lengths) + 4 * width * attended
        ) + 2 * self._head_elements * len(prompt_lengths)

    @property
    def _head_elements(self) -> int:
        return self.hidden_size * self.vocab_size

    @property
    def _layer_elements(self) -> int:
        queries = self.num_attention_heads * self.head_dim
        keys = self.num_key_value_heads * self.head_dim
        attention = self.hidden_size * (2 * queries + 2 * keys)
        return attention + 3 * self.hidden_size * self.intermediate_size
