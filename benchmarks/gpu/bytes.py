"""What a kernel or a step has to move and to compute, whoever computes it: bytes and operations.

Everything is read once and written once. Numbers of tokens, heads and elements in, bytes out; an
element of weights, activations and KV takes two bytes.
"""

from collections.abc import Iterable, Sequence

from benchmarks.harness.model_shape import ModelShape
from benchmarks.harness.weight_formats import weight_bytes

ELEMENT = 2
_BF16 = weight_bytes("folovllm", "bf16")


def linear_bytes(rows: int, inputs: int, outputs: int) -> float:
    """Weights, activations in and out."""
    return ELEMENT * (inputs * outputs + rows * (inputs + outputs))


def linear_operations(rows: int, inputs: int, outputs: int) -> float:
    """A product and a sum for each weight and row."""
    return 2.0 * rows * inputs * outputs


def attention_bytes(shape: ModelShape, query_lens: Sequence[int], seq_lens: Sequence[int]) -> float:
    """Of one layer: each sequence's keys and values, queries in and results out."""
    kv = 2 * shape.num_key_value_heads * sum(seq_lens)
    queries = 2 * shape.num_attention_heads * sum(query_lens)
    return ELEMENT * shape.head_dim * (kv + queries)


def attention_operations(
    shape: ModelShape, query_lens: Sequence[int], seq_lens: Sequence[int]
) -> float:
    """Of one layer, causal: a query's scores and sum cost 4 * head_dim a key and head.

    The queries are each sequence's last ones.
    """
    pairs = sum(
        length * (seq_len - length) + length * (length + 1) / 2
        for length, seq_len in zip(query_lens, seq_lens, strict=True)
    )
    return 4.0 * shape.num_attention_heads * shape.head_dim * pairs


def add_rms_norm_bytes(rows: int, hidden: int) -> float:
    """Hidden states and residual in, both out, and the norm's weights."""
    return ELEMENT * (4 * rows + 1) * hidden


def silu_mul_bytes(rows: int, intermediate: int) -> float:
    """Gate and up in, their product out."""
    return ELEMENT * 3 * rows * intermediate


def norm_rope_write_bytes(shape: ModelShape, rows: int) -> float:
    """Queries, keys and values in and out, and a row of float32 angles for each token."""
    heads = shape.num_attention_heads + 2 * shape.num_key_value_heads
    return rows * shape.head_dim * (2 * ELEMENT * heads + 4)


def sampling_bytes(rows: int, vocab_size: int) -> float:
    """The logits, once."""
    return ELEMENT * rows * vocab_size


def decode_step_bytes(shape: ModelShape, contexts: Sequence[int]) -> float:
    """All weights, and the KV of sequences that have so many tokens."""
    return shape.decode_bytes(tuple(contexts), _BF16)


def generation_bytes(shape: ModelShape, requests: Iterable[tuple[int, int]]) -> float:
    """Of all steps that requests, as (prompt tokens, new tokens), need when all run together.

    Each new token but the first reads the KV of what is before it. There are as many steps as the
    longest output has tokens, and each reads the weights.
    """
    tokens, steps = 0, 0
    for prompt, new in requests:
        tokens += (new - 1) * prompt + new * (new - 1) // 2
        steps = max(steps, new)
    return tokens * shape.kv_bytes + steps * shape.weight_bytes(_BF16)
