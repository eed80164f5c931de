"""What the GPU benchmark measures: in full, and in small."""

from dataclasses import dataclass

from benchmarks.harness.cases import Case
from benchmarks.harness.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPlan(Plan):
    """`cases` are our engine's alone."""

    peer_cases: dict[str, tuple[Case, ...]]
    """By the peers' names."""
    profiled: tuple[Case, ...]
    """Whose kernels are timed."""
    num_requests: int
    """Of those of nano-vllm's benchmark, in its order."""
    request_tokens: tuple[int, int]
    """Minimum and maximum of their prompts and of their outputs."""
    streams: Case
    """Sequences that decode while a prompt arrives."""
    newcomer_tokens: int
    """Of that prompt."""
    num_newcomers: int
    newcomers_s: float
    """Seconds from one such prompt to the next; four times as long until the first."""


def full() -> GpuPlan:
    """Minutes on an H100 or H200 with the shape of Qwen3-0.6B."""
    batches = (
        (128, (256, 128, 64, 32, 8, 1)),
        (1024, (256, 128, 64, 32, 8, 1)),
        (8192, (64, 32, 8, 1)),
    )
    decode = {(n, context): Case("decode", n, context, 33) for context, ns in batches for n in ns}
    return GpuPlan(
        cases=(
            *decode.values(),
            Case("prefill", 1, 8192),
            Case("prefill", 8, 1024),
            Case("prefill", 64, 128),
        ),
        peer_cases={
            "transformers": (decode[1, 128],),
            "transformers-compiled": (decode[1, 128],),
            "torch": (decode[1, 128], decode[64, 1024]),
        },
        profiled=(decode[1, 128], decode[64, 1024], decode[64, 8192]),
        num_requests=256,
        request_tokens=(100, 1024),
        streams=Case("decode", 64, 1024, 512),
        newcomer_tokens=1024,
        num_newcomers=7,
        newcomers_s=0.1,
        max_num_seqs=256,
        max_model_len=9216,
        kv_tokens=None,
        turns=3,
        read_mib=2048,
        gemm_size=8192,
    )


def smoke() -> GpuPlan:
    """Seconds on a CPU with the embedded model: shows that everything runs, and not how fast."""
    small = Case("decode", 2, 24, 5)
    return GpuPlan(
        cases=(small, Case("prefill", 4, 8)),
        peer_cases=dict.fromkeys(("transformers", "transformers-compiled", "torch"), (small,)),
        profiled=(small,),
        num_requests=6,
        request_tokens=(4, 12),
        streams=Case("decode", 3, 16, 200),
        newcomer_tokens=40,
        num_newcomers=2,
        newcomers_s=0.01,
        max_num_seqs=8,
        max_model_len=512,
        kv_tokens=4096,
        turns=2,
        read_mib=1,
        gemm_size=64,
    )
