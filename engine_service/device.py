"""Which device and number type the engine computes with, and how much memory is free there."""

import platform
from pathlib import Path

import psutil
import torch

from folovllm.errors import ConfigError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


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


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on the device.

    For the CPU that is what the machine has left, or less if the control group's limit is nearer.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    available = int(psutil.virtual_memory().available)
    limited = cgroup_free_memory(_CGROUP_ROOT, _OWN_CGROUPS)
    return available if limited is None else min(available, limited)


def cgroup_free_memory(root: Path, own_cgroups: Path) -> int | None:
    """Bytes left under the nearest memory limit of the process's control groups; None without one.

    `root` is where control groups are mounted, `own_cgroups` the process's list of them. Reads
    version 2 (memory.max) and version 1 (memory/memory.limit_in_bytes). The page cache of files
    does not count as used, since the kernel frees it on demand.
    """
    left: list[int] = []
    for folder in _memory_folders(root, own_cgroups):
        for limit_name, usage_name, cache_names in (
            ("memory.max", "memory.current", ("inactive_file", "active_file")),
            (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                ("total_inactive_file", "total_active_file"),
            ),
        ):
            limit, usage = _number(folder / limit_name), _number(folder / usage_name)
            if limit is not None and usage is not None:
                cached = _cached_bytes(folder / "memory.stat", cache_names)
                left.append(max(0, limit - max(0, usage - cached)))
    return min(left, default=None)


def _memory_folders(root: Path, own_cgroups: Path) -> list[Path]:
    """The process's memory groups and their parents, up to the roots of both versions."""
    folders = [root, root / "memory"]
    try:
        lines = own_cgroups.read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        folder = top
        # In a container the path may be the host's, whose folders are not visible here.
        for part in Path(path).parts[1:]:
            folder = folder / part
            folders.append(folder)
    return folders


def _number(path: Path) -> int | None:
    """A file's whole number; None without a file or a number (`max`: no limit)."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _cached_bytes(path: Path, names: tuple[str, ...]) -> int:
    try:
        pairs = (line.split() for line in path.read_text().splitlines())
        return sum(int(pair[1]) for pair in pairs if pair[0] in names)
    except OSError:
        return 0
