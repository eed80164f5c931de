"""GpuDecoder: the decoder in fused kernels, from the weights of one in plain torch.

A layer of a decode step is seven kernels, or five for up to two rows: a norm with the sum before
it, the projection to queries, keys and values, attention with their norms, rotation and the cache's
writing, the output projection, the next sum and norm, gate and up with SwiGLU, and down. The
residual stream is passed on as a pending sum, (delta, residual), which the next norm computes.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from engine_service.kernels.gpu.attention.rope import norm_rope_write
from engine_service.kernels.gpu.linear.norm import add_rms_norm
from engine_service.layers.attention.backend import AttentionMetadata, KVCache
from engine_service.layers.attention.gpu_attention import GpuAttention, GpuBatch, gpu_batch
from engine_service.layers.embedding import embed, gather_logits
from engine_service.layers.linear.gpu_linear import GpuLinear, tune
from engine_service.layers.linear.tuner import Tuner
from engine_service.layers.parallel import TensorParallel
from engine_service.layers.rotary import RotaryEmbedding
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.layer_plan import Mlp, not_pre_norm, unknown_flag
from engine_service.models.model_options import ModelOptions
from engine_service.models.torch_decoder import TorchDecoder, TorchLayer

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_FLAGS = frozenset({"bias", "q_norm", "k_norm"})
# The cache's block sizes and a head's size have to fit tiles.
_MIN_BLOCK = 16
_MAX_HEAD_DIM = 256


def obstacle(config: DecoderConfig, options: ModelOptions) -> str | None:
    """Why the kernels do not compute a model so, in words; None if they do."""
    if unknown := not_pre_norm(config.plan) or unknown_flag(config.plan, _FLAGS):
        return f"the GPU kernels do not compute {unknown}"
    mlps = [op for _, op in config.plan.numbered() if isinstance(op, Mlp)]
    head = config.plan.head or config.plan.embedding
    size = options.block_size
    limits = (
        (options.dtype in _DTYPES, f"do not compute in {options.dtype}"),
        (not options.deterministic, "are not deterministic"),
        (options.quantization == "none", f"have no {options.quantization} weights"),
        (not any(op.gate_up.bias or op.down.bias for op in mlps), "compute no biases in an MLP"),
        (not head.bias, "compute no bias of the logits"),
        (config.head_dim <= _MAX_HEAD_DIM, f"take heads of up to {_MAX_HEAD_DIM} elements"),
        (
            size >= _MIN_BLOCK and size & (size - 1) == 0,
            f"take a block_size that is a power of two from {_MIN_BLOCK} on",
        ),
    )
    return next((f"the GPU kernels {limit}" for fits, limit in limits if not fits), None)


class GpuLayer:
    """The weights of one layer."""

    def __init__(self, layer: TorchLayer) -> None:
        blocks: Any = layer.blocks
        (input_norm, attention), (post_norm, mlp) = blocks
        self.input_norm = input_norm.weight
        self.qkv = GpuLinear(attention.qkv.weight, attention.qkv.bias)
        self.q_norm = None if attention.q_norm is None else attention.q_norm.weight
        self.k_norm = None if attention.k_norm is None else attention.k_norm.weight
        self.output = GpuLinear(attention.output.weight, attention.output.bias, split=True)
        self.post_norm = post_norm.weight
        self.gate_up = GpuLinear(mlp.gate_up.weight, None, gated=True)
        self.down = GpuLinear(mlp.down.weight, None, split=True)


class GpuDecoder:
    """See CausalModel."""

    kernels = "gpu"

    def __init__(self, decoder: TorchDecoder, max_model_len: int) -> None:
        """Shares the decoder's weights; computes positions up to `max_model_len`."""
        config = decoder.config
        self.config, self.dtype, self.device = config, decoder.dtype, decoder.device
        self._heads = config.num_attention_heads, config.num_key_value_heads
        self.backend = GpuAttention(*self._heads, config.head_dim, self.device)
        self._parallel = decoder.parallel
        self._embedding = decoder.embed_tokens
        self._layers = [GpuLayer(layer) for layer in decoder.layers]  # type: ignore[arg-type]
        self._norm = decoder.norm.weight
        head = decoder.embed_tokens if decoder.lm_head is None else decoder.lm_head.weight
        self._head = GpuLinear(head, None)
        self._angles = _angles(decoder.rotary, max_model_len, config.head_dim, self.device)

    def __call__(
        self,
        input_ids: Tensor,
        positions: Tensor,
        kv_caches: Sequence[KVCache],
        metadata: AttentionMetadata,
        output_rows: Tensor | None = None,
    ) -> Tensor:
        """See CausalModel. Hidden states are those after the last norm, of all rows."""
        batch = gpu_batch(metadata, *self._heads)
        return self.forward(input_ids, positions, kv_caches, batch)

    def forward(
        self, input_ids: Tensor, positions: Tensor, kv_caches: Sequence[KVCache], batch: GpuBatch
    ) -> Tensor:
        """The same for a batch on the device; nothing in it waits for the host."""
        self.backend.plan(batch)
        delta = embed(input_ids, self._embedding, self.dtype, self._parallel)
        residual = None
        for layer, cache in zip(self._layers, kv_caches, strict=True):
            delta, residual = self._layer(layer, delta, residual, positions, cache, batch)
        normed, _ = add_rms_norm(delta, residual, self._norm, self.config.rms_norm_eps)
        return normed

    def compute_logits(self, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
        """See CausalModel. In the model's dtype."""
        logits = self._head(hidden if rows is None else hidden[rows])
        return gather_logits(logits, self.config.vocab_size, self._parallel)

    def argmax(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """See CausalModel."""
        return torch.max(logits, dim=-1)

    def tune(self, tuner: Tuner, show_progress: bool) -> None:
        """Chooses a kernel for every kind of projection and number of rows."""
        kinds = list(self._kinds())
        for linears in tqdm(kinds, desc="Tuning kernels", disable=not show_progress, leave=False):
            tune(linears, tuner)
        tuner.save()

    def _kinds(self) -> Iterator[list[GpuLinear]]:
        yield [layer.qkv for layer in self._layers]
        yield [layer.output for layer in self._layers]
        yield [layer.gate_up for layer in self._layers]
        yield [layer.down for layer in self._layers]
        yield [self._head]

    def _layer(
        self,
        layer: GpuLayer,
        delta: Tensor,
        residual: Tensor | None,
        positions: Tensor,
        cache: KVCache,
        batch: GpuBatch,
    ) -> tuple[Tensor, Tensor]:
        eps = self.config.rms_norm_eps
        qkv, residual = layer.qkv.normed(delta, residual, layer.input_norm, eps)
        mixed = self._attention(layer, qkv, positions, cache, batch)
        delta = _summed(layer.output(mixed.flatten(1)), self._parallel)
        gated, residual = layer.gate_up.normed(delta, residual, layer.post_norm, eps)
        return _summed(layer.down(gated), self._parallel), residual

    def _attention(
        self, layer: GpuLayer, qkv: Tensor, positions: Tensor, cache: KVCache, batch: GpuBatch
    ) -> Tensor:
        eps, norms = self.config.rms_norm_eps, (layer.q_norm, layer.k_norm)
        if batch.decodes:
            return self.backend.decode(qkv, norms, eps, self._angles, cache, batch)
        query = norm_rope_write(
            qkv,
            *norms,
            eps,
            angles=self._angles,
            positions=positions,
            slot_mapping=batch.slot_mapping,
            cache=cache[:2],
            scales=cache.scales,
            num_heads=self._heads[0],
        )
        return self.backend.forward(query, cache, batch)


def _summed(delta: Tensor, parallel: TensorParallel) -> Tensor:
    """The sum of the ranks' products; that of one rank may stay in parts."""
    if parallel.size == 1:
        return delta
    return parallel.all_reduce(delta.sum(0) if delta.dim() == 3 else delta)


def _angles(
    rotary: RotaryEmbedding, max_model_len: int, head_dim: int, device: torch.device
) -> Tensor:
    """Cosines and sines of all positions, float32 [max_model_len, head_dim]."""
    cos, sin = rotary.angles(torch.arange(max_model_len, device=device), torch.float32)
    half = head_dim // 2
    return torch.cat((cos[:, 0, half:], sin[:, 0, half:]), dim=-1).contiguous()
