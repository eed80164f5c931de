"""TorchDecoder: a plan in plain torch, on any device; what other decoders are compared with.

Parameters are made on the meta device; `allocate` gives them memory and the loader fills them
through `weights`, which names each one as checkpoints do. Of several ranks, each has a decoder of
its part of the plan, and they sum and gather what they compute.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from engine_service.layers.attention.backend import AttentionBackend, AttentionMetadata, KVCache
from engine_service.layers.attention.cpu_attention import CpuAttention
from engine_service.layers.attention.deterministic_attention import DeterministicAttention
from engine_service.layers.attention.torch_attention import TorchAttention
from engine_service.layers.embedding import embed, gather_logits
from engine_service.layers.linear.linear import Linear, Packing
from engine_service.layers.linear.row_operators import FASTEST_OPERATORS, TILED_OPERATORS
from engine_service.layers.rotary import RotaryEmbedding
from engine_service.models.causal_model import torch_argmax
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.layer_plan import LayerPlan, Op, Projection, unknown_flag
from engine_service.models.model_options import ModelOptions
from engine_service.models.torch_layers import LAYERS, LayerStep, LayerTools, TokenMixer

_FLAGS = frozenset({"bias", "q_norm", "k_norm"})
# Each packing thread has threads of torch's own for a while.
_PACKING_THREADS = 4


def obstacle(config: DecoderConfig, options: ModelOptions) -> str | None:
    """Why plain torch cannot compute the model with these options, in words; None if it can."""
    ops = (op for _, op in config.plan.numbered())
    unknown_op = next((op.name for op in ops if type(op) not in LAYERS), None)
    if unknown := unknown_op or unknown_flag(config.plan, _FLAGS):
        return f"plain torch does not compute {unknown}"
    if options.cache_dtype != "auto":
        return (
            f"kv_cache_dtype {options.cache_dtype} needs the kernels for GPUs, which do not "
            f"compute this model on {options.device}; use auto"
        )
    if options.quantization != "none" and options.device.type != "cpu":
        return f"quantization {options.quantization} is for cpu, not for {options.device}; use none"
    if options.parallel.size == 1:
        return None
    if options.deterministic:
        return "deterministic is for one rank: the order of sums over several depends on the batch"
    if options.quantization != "none":
        return f"quantization {options.quantization} is for one rank; use none"
    return None


class TorchLayer(nn.Module):
    """The blocks of a layer, each added to the residual stream."""

    def __init__(self, plan: LayerPlan, tools: LayerTools) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList(LAYERS[type(op)](op, tools) for op in block) for block in plan
        )

    def forward(self, hidden: Tensor, step: LayerStep) -> Tensor:
        """[T, hidden_size] -> [T, hidden_size]."""
        for block in self.blocks:
            branch = hidden
            for op in block:  # type: ignore[attr-defined]
                branch = op(branch, step) if isinstance(op, TokenMixer) else op(branch)
            hidden = hidden + branch
        return hidden


class TorchDecoder(nn.Module):
    """See CausalModel. `allocate` and load it before use."""

    kernels = "torch"
    argmax = staticmethod(torch_argmax)

    def __init__(self, config: DecoderConfig, options: ModelOptions) -> None:
        """A decoder without weights; of several ranks, a rank's part of it.

        A deterministic one gives a token's row the same bits whatever is computed beside it; else
        it is the fastest. Raises ConfigError if the ranks cannot share the model.
        """
        super().__init__()
        self.dtype, self.device, self.parallel = options.dtype, options.device, options.parallel
        plan = config.plan.shard(self.parallel.size)
        self.config = config = replace(config, plan=plan)
        fastest = CpuAttention if self.device.type == "cpu" else TorchAttention
        backend = DeterministicAttention if options.deterministic else fastest
        self.backend: AttentionBackend = backend()
        operators = TILED_OPERATORS if options.deterministic else FASTEST_OPERATORS
        self._tools = LayerTools(
            self.backend, operators, self.dtype, config.rms_norm_eps, self.parallel
        )
        self._num_kv_heads = config.num_key_value_heads
        self.rotary = RotaryEmbedding(config.rope, config.head_dim, self.device)
        rows = torch.empty(
            plan.embedding.outputs, config.hidden_size, dtype=self.dtype, device="meta"
        )
        self.embed_tokens = nn.Parameter(rows, requires_grad=False)
        self.layers = nn.ModuleList(TorchLayer(layer, self._tools) for layer in plan.layers)
        self.norm = self._tools.norm(plan.norm)
        self.lm_head = None if plan.head is None else self._tools.linear(plan.head)

    def allocate(self) -> None:
        """Gives every parameter memory on the model's device, its content undefined."""
        # Not `to_empty`, for which torch imports some hundred modules.
        self._apply(  # type: ignore[no-untyped-call]
            lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device)
        )

    def pack(self, packing: Packing, head_packing: Packing) -> None:
        """Replaces all filled projections with packed forms; a tied embedding gives a head.

        Each is packed by one thread, several at once, the largest first. The embedding's own rows
        stay.
        """
        if self.lm_head is None:
            self.lm_head = self._tools.linear(self.config.plan.embedding)
            self.lm_head.weight = nn.Parameter(
                self.embed_tokens.to(self.dtype), requires_grad=False
            )
        linears = [module for module in self.modules() if isinstance(module, Linear)]
        linears.sort(key=lambda linear: -linear.weight.numel())

        def pack(linear: Linear) -> None:
            linear.pack(head_packing if linear is self.lm_head else packing)

        with ThreadPoolExecutor(min(_PACKING_THREADS, torch.get_num_threads())) as threads:
            list(threads.map(pack, linears))

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        kv_caches: Sequence[KVCache],
        metadata: AttentionMetadata,
        output_rows: Tensor | None = None,
    ) -> Tensor:
        """See CausalModel. Hidden states are those after the last norm, of all rows."""
        plan = self.backend.plan(metadata, self._num_kv_heads)
        angles = self.rotary.angles(positions, self.dtype)
        hidden = embed(input_ids, self.embed_tokens, self.dtype, self.parallel)
        for layer, cache in zip(self.layers, kv_caches, strict=True):
            hidden = layer(hidden, LayerStep(angles, cache, plan))
        output: Tensor = self.norm(hidden)
        return output

    def compute_logits(self, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
        """See CausalModel. In the model's dtype."""
        if rows is not None:
            hidden = hidden[rows]
        if self.lm_head is None:
            logits = self._tools.operators.linear(hidden, self.embed_tokens, None)
        else:
            logits = self.lm_head(hidden)
        return gather_logits(logits, self.config.vocab_size, self.parallel)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Each tensor of a checkpoint by name, as the parameter, or slice of one, that it fills.

        Before projections are packed.
        """
        plan = self.config.plan
        modules: Any = (op for layer in self.layers for block in layer.blocks for op in block)  # type: ignore[union-attr]
        targets: list[Tensor] = [self.embed_tokens]
        for (_, op), module in zip(plan.numbered(), modules, strict=True):
            targets += _targets(op, module)
        targets.append(self.norm.weight)
        if plan.head is not None:
            targets += _targets(plan.head, self.lm_head)
        names = (weight.name for weight in plan.weights())
        return zip(names, targets, strict=True)


def _targets(op: Op, module: Any) -> Iterator[Tensor]:
    """What the weights of an operation fill, in their order."""
    if isinstance(op, Projection):
        start = 0
        for _, outputs in op.parts:
            for parameter in (module.weight, module.bias) if op.bias else (module.weight,):
                yield parameter[start : start + outputs]
            start += outputs
        return
    children = list(op.children())
    for name, child in children:
        yield from _targets(child, getattr(module, name))
    if not children:
        yield module.weight
