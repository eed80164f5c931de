"""What torch gives by itself: the model in plain torch over a static KV cache, compiled.

As in gpt-fast (pytorch-labs/gpt-fast), torch.compile makes the kernels and a CUDA graph starts
them. Here it compiles one layer, which all layers then are, and the graph is captured around the
whole step: the kernels are the same, and that many layers need not be compiled.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu.bench import Bench, BenchCase
from benchmarks.gpu.bytes import decode_step_bytes
from benchmarks.gpu.line import Line
from benchmarks.gpu.timing import time_calls
from benchmarks.harness.model_shape import ModelShape
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.weights.checkpoint import Checkpoint

SECTION = "torch"
_TIMED_S = 1.0
_ALIGNMENT = 16
"""Of the cache's length, as attention with a mask asks for."""

Layer = Mapping[str, Tensor]
Angles = tuple[Tensor, Tensor]


def cases(bench: Bench) -> list[BenchCase]:
    """The smallest context with one sequence, and the load's sequences with theirs."""
    sizes = ((1, bench.plan.peer_prompt), bench.plan.load)
    return [
        BenchCase(f"{batch} x {context}", partial(_lines, bench, batch, context))
        for batch, context in sizes
    ]


def _lines(bench: Bench, batch: int, context: int) -> Iterator[Line]:
    compiled = bench.device.type == "cuda"
    room = -(-(context + 1) // _ALIGNMENT) * _ALIGNMENT
    decoder = CompiledDecoder(
        bench.folder, torch.bfloat16, bench.device, batch, room, compiled=compiled
    )
    decoder.fill(context)
    # Each call computes the same position again: a replay must not run out of its cache.
    timing = time_calls([decoder.step], bench.device, _TIMED_S)
    yield Line(
        SECTION,
        f"{batch} x {context}",
        timing.seconds,
        num_bytes=decode_step_bytes(bench.shape, (context,) * batch),
        tokens=batch,
        note="compiled, CUDA graph" if timing.captured else "no graph",
    )


class CompiledDecoder:
    """A Qwen3 decoder that computes one token of each of `batch` sequences of equal length."""

    def __init__(
        self,
        folder: Path,
        dtype: torch.dtype,
        device: torch.device,
        batch: int,
        max_tokens: int,
        compiled: bool,
    ) -> None:
        self._shape, config = ModelShape.from_folder(folder), DecoderConfig.from_folder(folder)
        self._eps = config.rms_norm_eps
        self._load(folder, dtype, device, config.plan.head is None)
        size = (
            self._shape.num_hidden_layers,
            batch,
            self._shape.num_key_value_heads,
            max_tokens,
            self._shape.head_dim,
        )
        self._keys, self._values = (torch.zeros(size, dtype=dtype, device=device) for _ in range(2))
        self._angles = _angle_table(config.rope.theta, self._shape.head_dim, max_tokens, device)
        self._places = torch.arange(max_tokens, device=device)
        self.token_ids = torch.zeros(batch, dtype=torch.int64, device=device)
        """The tokens to compute, one of each sequence; a step leaves the next ones here."""
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        """Of those tokens."""
        self._compute_layer, self._compute_logits = compute_layer, compute_logits
        if compiled:
            torch._dynamo.reset()  # or what differs between shapes would be dynamic
            self._compute_layer = torch.compile(compute_layer, fullgraph=True, dynamic=False)
            self._compute_logits = torch.compile(compute_logits, fullgraph=True, dynamic=False)

    def fill(self, context: int) -> None:
        """As if `context` tokens had been computed, this step's included."""
        self._keys.normal_()
        self._values.normal_()
        self.position.fill_(context - 1)

    def step(self) -> Tensor:
        """Computes the tokens at their position: logits [batch, vocab_size]."""
        dtype = self._embedding.dtype
        cos, sin = (table[self.position].to(dtype) for table in self._angles)
        residual = functional.embedding(self.token_ids, self._embedding)
        hidden = torch.zeros_like(residual)
        unseen = self._places > self.position
        bias = torch.zeros_like(unseen, dtype=dtype).masked_fill_(unseen, float("-inf"))
        for layer, keys, values in zip(self._layers, self._keys, self._values, strict=True):
            hidden, residual = self._compute_layer(
                hidden, residual, layer, keys, values, self.position, (cos, sin), bias, self._eps
            )
        logits = self._compute_logits(hidden, residual, self._norm, self._head, self._eps)
        self.token_ids.copy_(logits.argmax(-1))
        return logits

    def _load(self, folder: Path, dtype: torch.dtype, device: torch.device, tied: bool) -> None:
        with Checkpoint(folder) as checkpoint:

            def read(*names: str) -> Tensor:
                parts = [checkpoint.read(f"{name}.weight") for name in names]
                return torch.cat(parts).to(device, dtype)

            self._embedding = read("model.embed_tokens")
            self._head = self._embedding if tied else read("lm_head")
            self._norm = read("model.norm")
            self._layers = [
                _read_layer(partial(_read_within, read, f"model.layers.{number}."))
                for number in range(self._shape.num_hidden_layers)
            ]


def _read_within(read: Callable[..., Tensor], prefix: str, *names: str) -> Tensor:
    return read(*(prefix + name for name in names))


def _read_layer(read: Callable[..., Tensor]) -> Layer:
    attention = [f"self_attn.{name}_proj" for name in "qkv"]
    return {
        "input_norm": read("input_layernorm"),
        "qkv": read(*attention),
        "q_norm": read("self_attn.q_norm"),
        "k_norm": read("self_attn.k_norm"),
        "o": read("self_attn.o_proj"),
        "mlp_norm": read("post_attention_layernorm"),
        "gate_up": read("mlp.gate_proj", "mlp.up_proj"),
        "down": read("mlp.down_proj"),
    }


def compute_layer(
    hidden: Tensor,
    residual: Tensor,
    layer: Layer,
    keys: Tensor,
    values: Tensor,
    position: Tensor,
    angles: Angles,
    bias: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """What the layer adds, and the residual stream that it is added to, each [batch, hidden_size].

    keys and values are [batch, kv_heads, max_tokens, head_dim]; `bias` [max_tokens] is -inf where
    nothing is to be seen.
    """
    batch, kv_heads, max_tokens, dim = keys.shape
    residual = residual + hidden
    qkv = _linear(_rms_norm(residual, layer["input_norm"], eps), layer["qkv"])
    heads = qkv.view(batch, -1, dim)
    query, key, value = torch.split(heads, [heads.shape[1] - 2 * kv_heads, kv_heads, kv_heads], 1)
    query = _rotate(_rms_norm(query, layer["q_norm"], eps), angles)
    key = _rotate(_rms_norm(key, layer["k_norm"], eps), angles)
    keys.index_copy_(2, position, key[:, :, None])
    values.index_copy_(2, position, value[:, :, None])
    # The heads that share keys stand where queries of several positions would: no key is repeated.
    grouped = query.view(batch, kv_heads, -1, dim)
    seen = bias.expand(batch, kv_heads, grouped.shape[2], max_tokens)
    mixed = functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=seen)
    residual = residual + _linear(mixed.reshape(batch, -1), layer["o"])
    gate, up = _linear(_rms_norm(residual, layer["mlp_norm"], eps), layer["gate_up"]).chunk(2, -1)
    return _linear(functional.silu(gate) * up, layer["down"]), residual


def compute_logits(
    hidden: Tensor, residual: Tensor, norm: Tensor, head: Tensor, eps: float
) -> Tensor:
    """[batch, vocab_size]."""
    return _linear(_rms_norm(residual + hidden, norm, eps), head)


def _linear(values: Tensor, weight: Tensor) -> Tensor:
    """For one row as products and sums, which the compiler makes a faster kernel of than cuBLAS."""
    if values.shape[0] == 1:
        return (weight * values).sum(-1)[None]
    return functional.linear(values, weight)


def _rms_norm(values: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = values.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(values.dtype) * weight


def _rotate(heads: Tensor, angles: Angles) -> Tensor:
    cos, sin = angles
    first, second = heads.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def _angle_table(theta: float, head_dim: int, length: int, device: torch.device) -> Angles:
    """cos and sin of all positions, each [length, head_dim / 2] in float32."""
    exponents = torch.arange(0, head_dim, 2, device=device).float() / head_dim
    angles = torch.arange(length, device=device).float()[:, None] * theta**-exponents
    return angles.cos(), angles.sin()
