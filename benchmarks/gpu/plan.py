"""GpuPlan: all sizes of a run of the GPU benchmark."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """What the sections measure. Contexts and lengths are in tokens."""

    copy_mib: int
    matmul_size: int
    kernel_s: float
    """Seconds of replays for each kernel."""
    attention: tuple[tuple[int, int], ...]
    """(sequences, context) of decode attention."""
    extend: tuple[tuple[int, int, int], ...]
    """(sequences, new tokens of each, context with them) of attention over prompts."""
    linear_rows: tuple[int, ...]
    """Tokens of projections."""
    rows: tuple[int, ...]
    """Tokens of what is between them: norms, rotation, gates."""
    sampled_rows: tuple[int, ...]
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    num_blocks: int | None
    """Of the engine's KV pool; None takes what the memory gives."""
    decode: tuple[tuple[int, tuple[int, ...]], ...]
    """(context, batches from large to small) of whole decode steps."""
    decode_steps: int
    num_requests: int
    """Of those of nano-vllm's benchmark, in its order."""
    request_tokens: tuple[int, int]
    """Least and most tokens of their prompts and of their outputs."""
    prefill: tuple[tuple[int, int], ...]
    """(prompts, tokens of each)."""
    prefill_turns: int
    load: tuple[int, int]
    """Sequences that decode, and their context, while a prompt comes."""
    load_prompt: int
    load_turns: int
    peer_prompt: int
    peer_new_tokens: int
    peer_eager_tokens: int
    """New tokens where nothing is compiled, and each takes long."""
    peer_warm_ups: int
    peer_batch: int
    peer_concurrency: int
    """Requests that transformers' continuous batching has at a time."""
    peer_window_s: float
    """Seconds for which a peer works on the requests."""


def full() -> GpuPlan:
    """Minutes on an H100 or H200 with the shape of Qwen3-0.6B."""
    return GpuPlan(
        copy_mib=2048,
        matmul_size=8192,
        kernel_s=0.1,
        attention=((64, 8192), (1, 8192), (256, 1024), (1, 128)),
        extend=((1, 8192, 8192), (8, 1024, 1024), (1, 1024, 8192)),
        linear_rows=(1, 8, 16, 32, 64),
        rows=(1, 64),
        sampled_rows=(1, 64, 256),
        block_size=64,
        max_num_seqs=256,
        max_num_batched_tokens=8192,
        max_model_len=9216,
        num_blocks=None,
        decode=(
            (128, (1,)),
            (128, (8,)),
            (128, (256, 128, 64, 32)),
            (1024, (1,)),
            (1024, (256, 128, 64, 32, 8)),
            (8192, (64, 32, 8, 1)),
        ),
        decode_steps=32,
        num_requests=256,
        request_tokens=(100, 1024),
        prefill=((1, 8192), (8, 1024), (64, 128)),
        prefill_turns=5,
        load=(64, 1024),
        load_prompt=1024,
        load_turns=7,
        peer_prompt=128,
        peer_new_tokens=128,
        peer_eager_tokens=32,
        peer_warm_ups=3,
        peer_batch=64,
        peer_concurrency=128,
        peer_window_s=15.0,
    )


def smoke() -> GpuPlan:
    """Seconds on a CPU with the embedded model: shows that everything runs, and not how fast."""
    return GpuPlan(
        copy_mib=1,
        matmul_size=64,
        kernel_s=0.0,
        attention=((2, 40),),
        extend=((2, 5, 20),),
        linear_rows=(2,),
        rows=(2,),
        sampled_rows=(2,),
        block_size=16,
        max_num_seqs=8,
        max_num_batched_tokens=64,
        max_model_len=160,
        num_blocks=80,
        decode=((24, (4, 1)),),
        decode_steps=4,
        num_requests=6,
        request_tokens=(4, 12),
        prefill=((1, 48), (4, 8)),
        prefill_turns=2,
        load=(3, 16),
        load_prompt=40,
        load_turns=2,
        peer_prompt=8,
        peer_new_tokens=4,
        peer_eager_tokens=3,
        peer_warm_ups=1,
        peer_batch=2,
        peer_concurrency=4,
        peer_window_s=2.0,
    )
