"""How much of the host's memory is free; needs no torch."""

from pathlib import Path

import psutil

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def free_host_memory() -> int:
    """Bytes that the machine has left, or fewer if the control group's limit is nearer."""
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
