"""Each kernel of a step alone, in the model's shape: its call, and what it must move.

A kernel is imported when its case is made, so that one that does not compile fails alone.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu import bytes as gpu_bytes
from benchmarks.gpu.bench import Bench, BenchCase
from benchmarks.gpu.inputs import PagedBatch, random_tensor
from benchmarks.gpu.line import Line
from benchmarks.gpu.plan import GpuPlan
from benchmarks.gpu.timing import Call, cache_bytes, num_input_sets, time_calls
from benchmarks.harness.model_shape import ModelShape
from engine_service.draw_fields import DRAW_PARAMS, DRAW_WORDS
from folovllm.cache_folder import cache_folder

SECTION = "kernels"
TORCH = "torch, us"
_EPS = 1e-6
_POSITIONS = 1024
_DEVIATION = 4.0
"""Of logits. As with a trained model the first thousand tokens hold nearly all the mass."""
_FILTERS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0},
    "random": {"temperature": 0.8},
    "top-k and top-p": {"temperature": 0.8, "top_k": 20, "top_p": 0.95},
}


@dataclass(frozen=True, slots=True)
class KernelCase:
    """One kernel in one shape."""

    name: str
    make: Callable[[torch.device], Call]
    """Gives the call over inputs of its own."""
    num_bytes: float
    operations: float = 0.0
    make_beside: Callable[[torch.device], Call] | None = None
    """The same in plain torch, where that is what one would use instead."""


def attention_name(batch: int, context: int) -> str:
    """Of decode attention."""
    return f"decode attention {batch} x {context}"


def kernel_cases(shape: ModelShape, plan: GpuPlan) -> list[KernelCase]:
    """All of them."""
    return [
        *(_decode_attention(shape, plan, *size) for size in plan.attention),
        *(_extend_attention(shape, plan, *size) for size in plan.extend),
        *(_draw(shape, rows, name) for rows in plan.sampled_rows for name in _FILTERS),
        *(case for rows in plan.rows for case in _between(shape, plan, rows)),
        *(case for rows in plan.linear_rows for case in _linears(shape, rows)),
    ]


def cases(bench: Bench) -> list[BenchCase]:
    """A line for each."""
    return [
        BenchCase(case.name, partial(_lines, bench, case))
        for case in kernel_cases(bench.shape, bench.plan)
    ]


def _lines(bench: Bench, case: KernelCase) -> Iterator[Line]:
    device, seconds = bench.device, bench.plan.kernel_s
    sets = num_input_sets(case.num_bytes, cache_bytes(device))
    timing = time_calls([case.make(device) for _ in range(sets)], device, seconds)
    extras = {}
    if case.make_beside is not None:
        calls = [case.make_beside(device) for _ in range(sets)]
        extras[TORCH] = time_calls(calls, device, seconds).seconds * 1e6
    yield Line(
        SECTION,
        case.name,
        timing.seconds,
        case.num_bytes,
        case.operations,
        extras=extras,
        note="" if timing.captured or device.type == "cpu" else "not captured in a graph",
    )


def _kernels(module: str) -> Any:
    return importlib.import_module(f"engine_service.kernels.gpu.{module}")


def _int32(values: Any, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


def _decode_attention(shape: ModelShape, plan: GpuPlan, batch: int, context: int) -> KernelCase:
    def make(device: torch.device) -> Call:
        layers = importlib.import_module("engine_service.layers.attention.gpu_attention")
        cache = importlib.import_module("engine_service.layers.attention.backend").KVCache
        paged = PagedBatch(shape, plan, device, batch, context)
        heads, head_dim = (shape.num_attention_heads, shape.num_key_value_heads), shape.head_dim
        qkv = random_tensor(device, batch, (heads[0] + 2 * heads[1]) * head_dim)
        norm = random_tensor(device, head_dim)
        angles = torch.rand(context, head_dim, device=device)
        attention = layers.GpuAttention(*heads, head_dim, device)
        group = layers.SequenceGroup(paged.seq_lens, paged.table_rows, None)
        sequences = layers.GpuBatch(torch.empty(0), paged.block_tables, group, 1)
        attention.plan(sequences)
        own_cache = cache(*paged.cache)
        return lambda: attention.decode(qkv, (norm, norm), 1e-6, angles, own_cache, sequences)

    lengths = [1] * batch, [context] * batch
    return KernelCase(
        attention_name(batch, context),
        make,
        gpu_bytes.attention_bytes(shape, *lengths),
        gpu_bytes.attention_operations(shape, *lengths),
    )


def _extend_attention(
    shape: ModelShape, plan: GpuPlan, batch: int, new: int, context: int
) -> KernelCase:
    def make(device: torch.device) -> Call:
        kernels = _kernels("attention.extend_attention")
        paged = PagedBatch(shape, plan, device, batch, context)
        query = random_tensor(device, batch * new, shape.num_attention_heads, shape.head_dim)
        out = torch.empty_like(query)
        starts = _int32(range(0, batch * new + 1, new), device)
        group = shape.num_attention_heads // shape.num_key_value_heads
        bound = kernels.query_block_bound([new] * batch, group)
        return lambda: kernels.extend_attention(
            query,
            paged.cache,
            None,
            paged.block_tables,
            paged.table_rows,
            paged.seq_lens,
            starts,
            bound,
            out,
        )

    lengths = [new] * batch, [context] * batch
    return KernelCase(
        f"extend attention {batch} x {new} of {context}",
        make,
        gpu_bytes.attention_bytes(shape, *lengths),
        gpu_bytes.attention_operations(shape, *lengths),
    )


def _between(shape: ModelShape, plan: GpuPlan, rows: int) -> list[KernelCase]:
    """What is neither a product nor attention, for so many tokens."""
    hidden, inner, dim = shape.hidden_size, shape.intermediate_size, shape.head_dim
    heads, kv_heads = shape.num_attention_heads, shape.num_key_value_heads

    def norm(device: torch.device) -> Call:
        add_rms_norm = _kernels("linear.norm").add_rms_norm
        values, residual = random_tensor(device, rows, hidden), random_tensor(device, rows, hidden)
        weight = random_tensor(device, hidden)
        return lambda: add_rms_norm(values, residual, weight, _EPS)

    def silu(device: torch.device) -> Call:
        silu_mul = _kernels("linear.silu").silu_mul
        gate_up = random_tensor(device, rows, 2 * inner)
        return lambda: silu_mul(gate_up)

    def rope(device: torch.device) -> Call:
        norm_rope_write = _kernels("attention.rope").norm_rope_write
        qkv = random_tensor(device, rows, (heads + 2 * kv_heads) * dim)
        q_weight, k_weight = random_tensor(device, dim), random_tensor(device, dim)
        cos_sin = torch.rand(_POSITIONS, dim, device=device)
        positions = torch.arange(rows, dtype=torch.int32, device=device)
        paged = PagedBatch(shape, plan, device, 1, rows)
        slots = torch.randperm(rows, device=device)
        return lambda: norm_rope_write(
            qkv,
            q_weight,
            k_weight,
            _EPS,
            cos_sin,
            positions,
            slots,
            paged.cache,
            None,
            heads,
        )

    return [
        KernelCase(f"add + norm {rows}", norm, gpu_bytes.add_rms_norm_bytes(rows, hidden)),
        KernelCase(
            f"q/k norm + rotary + KV write {rows}",
            rope,
            gpu_bytes.norm_rope_write_bytes(shape, rows),
        ),
        KernelCase(f"silu x up {rows}", silu, gpu_bytes.silu_mul_bytes(rows, inner)),
    ]


def _linears(shape: ModelShape, rows: int) -> list[KernelCase]:
    """The products of a layer and of the output layer, for so many tokens.

    Those with few outputs may leave their sums in parts, as the engine has them.
    """
    hidden, inner, dim = shape.hidden_size, shape.intermediate_size, shape.head_dim
    queries, keys = shape.num_attention_heads * dim, shape.num_key_value_heads * dim
    return [
        _linear("qkv", rows, hidden, queries + 2 * keys),
        _linear("o", rows, queries, hidden, split=True),
        _gate_up(rows, hidden, inner),
        _linear("down", rows, inner, hidden, split=True),
        _linear("head", rows, hidden, shape.vocab_size),
    ]


def _linear(name: str, rows: int, inputs: int, outputs: int, split: bool = False) -> KernelCase:
    def make(device: torch.device) -> Call:
        weight, values = random_tensor(device, outputs, inputs), random_tensor(device, rows, inputs)
        linear = _tuned(weight, rows, split=split)
        return lambda: linear(values)

    def make_torch(device: torch.device) -> Call:
        weight, values = random_tensor(device, outputs, inputs), random_tensor(device, rows, inputs)
        return lambda: functional.linear(values, weight)

    size = rows, inputs, outputs
    return KernelCase(
        f"linear {name} {rows}",
        make,
        gpu_bytes.linear_bytes(*size),
        gpu_bytes.linear_operations(*size),
        make_torch,
    )


def _tuned(weight: Tensor, rows: int, **kind: bool) -> Callable[[Tensor], Tensor]:
    """A projection in the way that the engine has found to be the fastest for so many rows.

    Where no engine has been started on this machine yet, in the way that is likeliest.
    """
    from engine_service.layers.linear.gpu_linear import GpuLinear, tune
    from engine_service.layers.linear.tuner import Tuner

    linear = GpuLinear(weight, None, **kind)
    tuner = Tuner(weight.device, cache_folder() / "gpu")
    if tuner.knows(f"{linear.kind} x {rows}"):
        tune([linear], tuner)
    else:
        print(f"{linear.kind} has not been tuned: run the section start first", file=sys.stderr)
    return linear


def _gate_up(rows: int, hidden: int, inner: int) -> KernelCase:
    """With the gate's silu and its product with up."""

    def make(device: torch.device) -> Call:
        weight, values = (
            random_tensor(device, 2 * inner, hidden),
            random_tensor(device, rows, hidden),
        )
        linear = _tuned(weight, rows, gated=True)
        return lambda: linear(values)

    def make_torch(device: torch.device) -> Call:
        weight, values = (
            random_tensor(device, 2 * inner, hidden),
            random_tensor(device, rows, hidden),
        )

        def call() -> Tensor:
            gate, up = functional.linear(values, weight).chunk(2, -1)
            return functional.silu(gate) * up

        return call

    return KernelCase(
        f"linear gate_up {rows}",
        make,
        gpu_bytes.linear_bytes(rows, hidden, 2 * inner) - gpu_bytes.ELEMENT * rows * inner,
        gpu_bytes.linear_operations(rows, hidden, 2 * inner),
        make_torch,
    )


def _draw(shape: ModelShape, rows: int, wishes: str) -> KernelCase:
    values = {"temperature": 1.0, "top_k": 0.0, "top_p": 1.0, "min_p": 0.0} | _FILTERS[wishes]

    def make(device: torch.device) -> Call:
        kernels = _kernels("sampling.sampler")
        logits = random_tensor(device, rows, shape.vocab_size).mul_(_DEVIATION)
        indexes = torch.arange(rows, dtype=torch.int32, device=device)
        params = torch.zeros((len(DRAW_WORDS), rows), dtype=torch.int32, device=device)
        params[DRAW_WORDS.index("seed_low")] = indexes
        params[DRAW_WORDS.index("position")] = indexes + 1
        for name, dtype in DRAW_PARAMS.items():
            bits = np.array([values[name]], dtype=dtype).view(np.int32)
            params[DRAW_WORDS.index(name)] = int(bits[0])
        workspace = kernels.make_workspace(rows, shape.vocab_size, device)
        token_ids = torch.empty(rows, dtype=torch.int32, device=device)
        return lambda: kernels.draw(logits, indexes, params, workspace, token_ids)

    return KernelCase(
        f"draw {rows} {wishes}", make, gpu_bytes.sampling_bytes(rows, shape.vocab_size)
    )
