"""Whether this processor has the instructions of the CPU kernels; needs no torch."""

from pathlib import Path

INSTRUCTIONS = ("avx512_bf16", "avx512_vnni")
"""AVX-512 with bfloat16 and 8-bit dot products, as Linux names them."""

CPU_INFO = Path("/proc/cpuinfo")


def missing_instructions() -> tuple[str, ...]:
    """Those of INSTRUCTIONS that it lacks, or that the system does not list."""
    listed = _flags()
    return tuple(name for name in INSTRUCTIONS if name not in listed)


def _flags() -> set[str]:
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:  # another system than Linux
        return set()
    # Those of the first core; on other processors than x86 the line has another name.
    flags = next((line for line in lines if line.startswith("flags")), "")
    return set(flags.partition(":")[2].split())
