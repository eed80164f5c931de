"""Compiles the GPU kernels for Hopper, which needs no GPU: `python -m support.processes.hopper`
in tests/.

The interpreter lets pass what the compiler does not. Shapes are those of Qwen3-0.6B, in bfloat16.
Prints a line for each kernel. Not in a process whose kernels are interpreted.
"""

from collections.abc import Mapping
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from engine_service.kernels.gpu.attention import (
    decode_attention,
    decode_plan,
    extend_attention,
    few_attention,
    rope,
)
from engine_service.kernels.gpu.linear import gemv, matmul, norm, silu
from engine_service.kernels.gpu.sampling import bitmask, sampler
from engine_service.kernels.gpu.state import sequence_states

_HOPPER = GPUTarget("cuda", 90, 32)
_MAX_SHARED = 227 * 1024


def _named(kind: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), kind)


_TYPES = {
    **_named(
        "*bf16",
        """rows residual norm_weight weight bias out summed hidden normed query qkv q_weight
        k_weight gate_up logits key_cache value_cache query_pointer out_pointer key_pointer
        value_pointer""",
    ),
    **_named(
        "*fp32",
        """angles scales maxima sums mixed_parts max_scores weights scales_pointer chunk_max
        chunk_sum block_max""",
    ),
    **_named(
        "*i32",
        """block_tables table_rows seq_lens query_start_loc first_tiles records arrivals words
        changes last_tokens lengths input_ids token_ids positions bitmask params""",
    ),
    **_named("*i64", "slot_mapping"),
    **_named("fp32", "eps score_scale scale"),
}
_HEADS = {"NUM_KV_HEADS": 8, "HEAD_DIM": 128, "BLOCK_SIZE": 64}
_CACHE = {"FP8": False, "FP8_MAX": 448.0, "scales": None}
_DECODE = {
    "GROUP": 2,
    "ROWS": 16,
    "HALF": 64,
    "DIMS": 128,
    "TILE": 64,
    "STAGES": 6,
    "START": 2,
    "WORDS": decode_plan.RECORD,
}


def _compile(kernel: Any, constants: Mapping[str, Any], warps: int, **types: str) -> None:
    names = kernel.arg_names
    constants = {
        **({"OVERLAP": True} if "OVERLAP" in names else {}),
        **{name: value for name, value in constants.items() if name in names},
    }
    signature = {
        name: "constexpr" if name in constants else {**_TYPES, **types}.get(name, "i32")
        for name in names
    }
    aligned = [["tt.divisibility", 16]]
    attributes = {
        (place,): aligned
        for place, name in enumerate(names)
        if signature[name].startswith("*") or "stride" in name
    }
    places = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, places, attributes)
    options = {"num_warps": warps, "launch_pdl": "OVERLAP" in constants}
    compiled = compile(source, target=_HOPPER, options=options)
    assert compiled.metadata.shared <= _MAX_SHARED, (kernel.__name__, compiled.metadata.shared)
    print(kernel.__name__, compiled.metadata.shared, flush=True)


def _compile_attention() -> None:
    raw: dict[str, Any] = {"QUERY_LEN": 1, "RAW": True, "NORM": True, "query_start_loc": None}
    several: dict[str, Any] = {"QUERY_LEN": 8, "RAW": False, "NORM": False}
    several |= dict.fromkeys(("q_weight", "k_weight", "angles"))
    fp8 = {"key_cache": "*fp8e4nv", "value_cache": "*fp8e4nv"}
    decode = decode_attention._decode
    for constants in (raw, several):
        _compile(decode, {**_HEADS, **_CACHE, **_DECODE, **constants}, 4)
    _compile(decode, {**_HEADS, **_DECODE, **raw, "FP8": True, "FP8_MAX": 448.0}, 4, **fp8)
    plan = {"SEQS": 256, "NUM_KV_HEADS": 8, "TILE": 64, "MIN_TILES": 4, **_DECODE}
    _compile(decode_plan._plan, plan, 4)
    few = {"NUM_HEADS": 16, "DIMS": 128, "TILE": 64, "SPLITS": 8, "NORM": True}
    _compile(few_attention._decode_few, {**_HEADS, **_CACHE, **few}, 8, weights="*fp32")
    extend: dict[str, Any] = {"GROUP": 2, "PADDED_DIM": 128, "ROWS": 128, "TILE": 64, "STAGES": 5}
    extend |= {"HEAD_DIM": 128, "BLOCK_SIZE": 64, "BLOCK_QUERIES": 64}
    extend |= {"scales_pointer": None}
    _compile(extend_attention._extend_attention_kernel, extend, 8)


def _compile_rows() -> None:
    write = {**_HEADS, **_CACHE, "NUM_HEADS": 16, "HALF": 64, "HEADS": 4, "NORM": True}
    _compile(rope._norm_rope_write, write, 1)
    parts = {"SIZE": 1024, "WIDTH": 1024, "PARTS": 3, "ADDS": True}
    _compile(norm._add_rms_norm, parts, 4, hidden="*fp32")
    _compile(silu._silu_mul, {"SIZE": 3072, "WIDTH": 1024}, 4)
    _compile(bitmask._apply_bitmask, {"SIZE": 1024}, 4)
    chunks = {"VOCAB": 4096, "CHUNK": 2048, "BLOCK": 32, "BLOCKS": 128}
    _compile(sampler._scan_chunks, chunks, 4, rows="*i32")
    _compile(sequence_states._set_words, {"WORDS": 256}, 4)
    _compile(sequence_states._gather_inputs, {"ROWS": 256, "BLOCK_SIZE": 64}, 4, rows="*i32")
    _compile(sequence_states._advance, {"ROWS": 256}, 4, rows="*i32")


def _compile_products() -> None:
    plain: dict[str, Any] = {
        "NUM_INPUTS": 1024,
        "INPUTS": 1024,
        "PARTS": 1,
        "bias": None,
        "GATED": True,
    }
    normed = {**plain, "M": 2, "OUTPUTS": 8, "NORM": True, "CORES": False}
    _compile(gemv._gemv, normed, 4)
    cores: dict[str, Any] = {**plain, "M": 8, "OUTPUTS": 16, "NORM": False, "CORES": True}
    cores |= dict.fromkeys(("residual", "norm_weight", "summed"))
    _compile(gemv._gemv, cores, 4)
    tiles: dict[str, Any] = {
        "NUM_INPUTS": 1024,
        "INPUTS": 128,
        "SHARE": 1024,
        "STAGES": 4,
        "OUTPUTS": 64,
    }
    _compile(matmul._matmul, {**tiles, "ROWS": 64, "GATED": False, "bias": None}, 4)


if __name__ == "__main__":
    _compile_attention()
    _compile_rows()
    _compile_products()
