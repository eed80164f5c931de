"""Which device and number type the engine computes with, and how much memory is free there."""

import platform
from typing import NamedTuple

import torch

from engine_service.host_memory import free_host_memory
from folovllm.errors import ConfigError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class GpuMemory(NamedTuple):
    """Of one GPU, in bytes."""

    free: int
    total: int


def resolve_device(name: str) -> torch.device:
    """The device of `auto`, `cpu`, `cuda` or `cuda:N`; auto is the first GPU, else the CPU.

    Raises ConfigError for any other name, and if there is no such GPU.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if gpus else torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind != "cuda" or (name != "cuda" and not index.isdecimal()):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    number = int(index or 0)
    if not gpus:
        raise ConfigError(f"device {name} is not available: torch finds no CUDA device; use cpu")
    if number >= gpus:
        raise ConfigError(f"device {name} is not available: there are {gpus} CUDA devices, from 0")
    return torch.device("cuda", number)


def device_of_rank(name: str, local_rank: int) -> str:
    """The device that one of a machine's ranks computes on, for a configured `auto`, `cpu`, `cuda`.

    Each has a GPU of its own. Raises ConfigError for a GPU's number, and if there are too few.
    """
    device = resolve_device(name)
    if device.type == "cpu":
        return "cpu"
    if ":" in name:
        raise ConfigError(f"device {name} is one GPU, but each rank has its own; use cuda")
    gpus = torch.cuda.device_count()
    if local_rank >= gpus:
        raise ConfigError(
            f"rank {local_rank} of this machine has no GPU, there are {gpus}; start {gpus} ranks"
        )
    return f"cuda:{local_rank}"


def resolve_dtype(name: str, checkpoint_dtype: str, device: torch.device) -> torch.dtype:
    """The number type to compute with, for a configured name and the checkpoint's own.

    `auto` is the checkpoint's own on a GPU. On a CPU a 16-bit checkpoint is computed in bfloat16 if
    the processor has instructions for it, else in float32. Raises ConfigError for a type other than
    float32, bfloat16 and float16.
    """
    chosen = checkpoint_dtype if name == "auto" else name
    if chosen not in _DTYPES:
        raise ConfigError(f"dtype {chosen} is not supported; use one of {', '.join(_DTYPES)}")
    if name == "auto" and device.type == "cpu" and chosen != "float32":
        return torch.bfloat16 if cpu_computes_bfloat16() else torch.float32
    return _DTYPES[chosen]


def cpu_computes_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively, rather than through float32."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return bool(torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def gpu_memory(name: str = "cuda") -> GpuMemory:
    """The memory of the GPU `cuda` or `cuda:N`. Raises ConfigError if there is none."""
    device = resolve_device(name)
    if device.type != "cuda":
        raise ConfigError(f"device {name} has no GPU memory; use cuda or cuda:N")
    return GpuMemory(*map(int, torch.cuda.mem_get_info(device)))


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_host_memory()
