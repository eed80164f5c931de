"""The processor, its memory, and whether the engine's CPU kernels compute on it."""

import os
import platform
import sys
from importlib.util import find_spec
from pathlib import Path

from folovllm.installation.parts import missing_packages
from folovllm.installation.typed import typed_program
from folovllm_client.cli.doctor.findings import CPU_KERNELS, Finding

_CPU_INFO = Path("/proc/cpuinfo")


def check_processor() -> list[Finding]:
    """What is known of it; of the kernels only where the engine is installed."""
    found = [Finding("processor", "ok", f"{_name()}, {_cores()}"), _check_memory()]
    return found if missing_packages("engine") else [*found, check_kernels()]


def check_kernels() -> Finding:
    """Whether the CPU kernels compute, or what they lack."""
    from engine_service.kernels.cpu.build import KernelBuildError, find_compiler, find_library
    from engine_service.kernels.cpu.processor import missing_instructions

    if missing := missing_instructions():
        lacks = " and ".join(missing)
        return Finding(CPU_KERNELS, "info", f"not for this processor, which lacks {lacks}")
    if library := find_library():
        return Finding(CPU_KERNELS, "ok", f"compiled for AVX-512 with bfloat16: {library}")
    try:
        compiler = find_compiler()
    except KernelBuildError as error:
        return Finding(CPU_KERNELS, "warning", f"cannot be compiled: {error}")
    command = f"{typed_program(Path(sys.executable))} -m engine_service.kernels.cpu.build"
    text = f"{compiler} compiles them when the engine first starts, or now:"
    return Finding(CPU_KERNELS, "ok", text, command)


def _check_memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"{_gib(total)} GiB"
    if find_spec("psutil") is not None and find_spec("engine_service") is not None:
        from engine_service.host_memory import free_host_memory

        text += f", {_gib(free_host_memory())} GiB free for this process"
    return Finding("memory", "ok", text)


def _cores() -> str:
    """How many cores this process may use, which is the number of torch's threads."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{usable} core{'' if usable == 1 else 's'}"
    threads = os.environ.get("OMP_NUM_THREADS")
    return f"{text}, OMP_NUM_THREADS={threads}" if threads else text


def _name() -> str:
    machine = platform.machine()
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:  # another system than Linux
        return machine
    model = next((line for line in lines if line.startswith("model name")), "")
    return f"{model.partition(':')[2].strip()} ({machine})" if model else machine


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
