"""What torch gives by itself: the model in plain torch over a static KV cache, compiled.

As in gpt-fast (pytorch-labs/gpt-fast), torch.compile makes the kernels and a CUDA graph starts
them. Here it compiles one layer, which all layers then are, and the graph is captured around the
whole step: the kernels are the same, and that many layers need not be compiled.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness.batch_clock import BatchClock
from benchmarks.harness.model_shape import ModelShape
from benchmarks.peers.peer import PeerConfig
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.weights.checkpoint import Checkpoint

_ALIGNMENT = 16
"""Of the cache's length, as attention with a mask asks for."""

_LAYER_WEIGHTS = {
    "input_norm": ("input_layernorm",),
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "q_norm": ("self_attn.q_norm",),
    "k_norm": ("self_attn.k_norm",),
    "o": ("self_attn.o_proj",),
    "mlp_norm": ("post_attention_layernorm",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""Of a layer: those that are multiplied together are one matrix."""

Layer = Mapping[str, Tensor]
Angles = tuple[Tensor, Tensor]


class CompiledTorch:
    """Decodes only: a prompt is never computed, its KV is random numbers."""

    version = torch.__version__

    def __init__(self, config: PeerConfig) -> None:
        self._folder = Path(config.model)
        self._steps: dict[tuple[int, int], Callable[[], object]] = {}

    @torch.no_grad()
    def generate(self, prompts: list[list[int]], new_tokens: int) -> BatchClock:
        """See Peer; the prompts must be of one length.

        Each step computes the same position again, so that one graph does for all.
        """
        size = len(prompts), len(prompts[0])
        if size not in self._steps:
            self._steps = {size: self._prepare(*size)}
        step, clock = self._steps[size], BatchClock(len(prompts))
        for count in (1, new_tokens - 1):
            for _ in range(count):
                step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            for sequence in range(len(prompts)):
                clock.add(sequence, count)
        return clock

    def _prepare(self, batch: int, context: int) -> Callable[[], object]:
        """A step of `batch` sequences of `context` tokens; on a GPU compiled and captured."""
        gpu = torch.cuda.is_available()
        length = -(-(context + 1) // _ALIGNMENT) * _ALIGNMENT
        device = torch.device("cuda" if gpu else "cpu")
        decoder = StaticDecoder(self._folder, torch.bfloat16, device, batch, max_tokens=length)
        decoder.fill(context)
        if not gpu:
            return decoder.step
        decoder.step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            decoder.step()
        return graph.replay


class StaticDecoder:
    """A Qwen3 decoder that computes one token of each of `batch` sequences of equal length."""

    def __init__(
        self,
        folder: Path,
        dtype: torch.dtype,
        device: torch.device,
        batch: int,
        max_tokens: int,
    ) -> None:
        """Compiled if it is on a GPU."""
        shape, config = ModelShape.from_folder(folder), DecoderConfig.from_folder(folder)
        self._eps = config.rms_norm_eps
        self._load(folder, dtype, device, shape.num_hidden_layers, config.plan.head is None)
        layers, heads = shape.num_hidden_layers, shape.num_key_value_heads
        size = (layers, batch, heads, max_tokens, shape.head_dim)
        self._keys, self._values = (torch.zeros(size, dtype=dtype, device=device) for _ in range(2))
        self._positions = torch.arange(max_tokens, device=device)
        exponents = torch.arange(0, shape.head_dim, 2, device=device) / shape.head_dim
        angles = self._positions[:, None] * config.rope.theta**-exponents
        self._angles = angles.cos(), angles.sin()
        self.token_ids = torch.zeros(batch, dtype=torch.int64, device=device)
        """The tokens to compute, one of each sequence; a step leaves the next ones here."""
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        """Of those tokens."""
        self._compute_layer, self._compute_logits = compute_layer, compute_logits
        if device.type == "cuda":
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
        unseen = self._positions > self.position
        bias = torch.zeros_like(unseen, dtype=dtype).masked_fill_(unseen, float("-inf"))
        for layer, keys, values in zip(self._layers, self._keys, self._values, strict=True):
            hidden, residual = self._compute_layer(
                hidden,
                residual,
                layer,
                keys,
                values,
                position=self.position,
                angles=(cos, sin),
                bias=bias,
                eps=self._eps,
            )
        logits = self._compute_logits(hidden, residual, self._norm, self._head, self._eps)
        self.token_ids.copy_(logits.argmax(-1))
        return logits

    def _load(
        self, folder: Path, dtype: torch.dtype, device: torch.device, num_layers: int, tied: bool
    ) -> None:
        with Checkpoint(folder) as checkpoint:

            def read(prefix: str, *names: str) -> Tensor:
                parts = [checkpoint.read(f"{prefix}{name}.weight") for name in names]
                return torch.cat(parts).to(device, dtype)

            self._embedding = read("model.", "embed_tokens")
            self._head = self._embedding if tied else read("", "lm_head")
            self._norm = read("model.", "norm")
            self._layers: list[Layer] = [
                {
                    name: read(f"model.layers.{number}.", *parts)
                    for name, parts in _LAYER_WEIGHTS.items()
                }
                for number in range(num_layers)
            ]


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
