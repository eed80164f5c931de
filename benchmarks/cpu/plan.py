"""What the CPU benchmark measures: in full, and quickly."""

from benchmarks.harness.cases import Case
from benchmarks.harness.open_loop import Load
from benchmarks.harness.plan import Plan

# A step of a batch takes long enough that half as many give the same median.
DECODE = (Case("decode", 32, 128, 17), Case("decode", 8, 128, 17), Case("decode", 1, 128, 33))
THROUGHPUT = Case("throughput", 32, 16, 64)
LONG = Case("decode", 8, 4096, 17, same_prompt=True)


def full(rate: float, turns: int) -> Plan:
    """Minutes on two cores with the shape of Qwen3-0.6B; `rate` is of requests a second."""
    return Plan(
        cases=(*DECODE, Case("prefill", 1, 128), Case("prefill", 1, 512)),
        served=(THROUGHPUT, LONG),
        loads=(Load(rate, num_requests=20, prompt_tokens=(32, 256), new_tokens=(16, 96)),),
        load_turns=2,
        max_num_seqs=32,
        max_model_len=576,
        kv_tokens=8192,
        turns=turns,
        read_mib=1024,
        gemm_size=4096,
    )


def quick() -> Plan:
    """Seconds, for the embedded model: shows that everything runs, and not how fast it is."""
    return Plan(
        cases=(Case("decode", 4, 16, 9), Case("decode", 1, 16, 9), Case("prefill", 1, 32)),
        served=(Case("throughput", 4, 8, 8), Case("decode", 2, 128, 9, same_prompt=True)),
        loads=(Load(50.0, num_requests=8, prompt_tokens=(4, 16), new_tokens=(4, 8)),),
        max_num_seqs=8,
        max_model_len=64,
        kv_tokens=256,
        turns=2,
        read_mib=32,
        gemm_size=256,
    )
