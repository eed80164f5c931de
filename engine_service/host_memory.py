"""How much of the host's memory is free; needs no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from engine_service.memory_claims import Claim

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


class FreeMemory(NamedTuple):
    """Of a device, in bytes."""

    left: int
    claimed: int = 0
    """What other engines will take of it."""
    claims: tuple[Claim, ...] = ()
    """By which of them."""

    def shared_by(self, num_ranks: int) -> "FreeMemory":
        """The part of each rank."""
        claims = (claim._replace(untouched=claim.untouched // num_ranks) for claim in self.claims)
        return FreeMemory(self.left // num_ranks, self.claimed // num_ranks, tuple(claims))


def free_host_memory(claims: Sequence[Claim] = ()) -> int:
    """Bytes that the machine has left, or fewer if the control group's limit is nearer.

    What is claimed is not left: in the machine, and in the control groups of the claimant.
    """
    available = int(psutil.virtual_memory().available) - sum(claim.untouched for claim in claims)
    claimed = [(Path(f"/proc/{claim.pid}/cgroup"), claim.untouched) for claim in claims]
    limited = cgroup_free_memory(_CGROUP_ROOT, _OWN_CGROUPS, claimed)
    return max(0, available if limited is None else min(available, limited))


def free_beside(claims: tuple[Claim, ...]) -> FreeMemory:
    """The host's memory, with what other engines have planned."""
    left = free_host_memory()
    return FreeMemory(left, max(0, left - free_host_memory(claims)), claims)


def cgroup_free_memory(
    root: Path, own_cgroups: Path, claimed: Sequence[tuple[Path, int]] = ()
) -> int | None:
    """Bytes left under the nearest memory limit of the process's control groups; None without one.

    `root` is where control groups are mounted, `own_cgroups` the process's list of them; `claimed`
    has such lists of other processes, with the bytes that they will take. Reads version 2
    (memory.max) and version 1 (memory/memory.limit_in_bytes). The page cache of files does not
    count as used, since the kernel frees it on demand.
    """
    groups = [(set(_memory_folders(root, cgroups)), taken) for cgroups, taken in claimed]
    left: list[int] = []
    for folder in _memory_folders(root, own_cgroups):
        if (free := _free_in(folder)) is not None:
            taken = sum(num_bytes for folders, num_bytes in groups if folder in folders)
            left.append(max(0, free - taken))
    return min(left, default=None)


def _free_in(folder: Path) -> int | None:
    """Bytes left in a control group; None if it has no limit."""
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
            return max(0, limit - max(0, usage - cached))
    return None


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
