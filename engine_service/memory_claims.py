"""What engines have planned to take of the host's memory, and have not taken yet.

A KV pool on a CPU is sized by the free memory, but takes it only as its blocks are first written.
Until then the operating system calls it free, to the next engine as well. So each engine leaves a
claim where the others look: a file that it keeps locked. The lock ends with the process, however
that ends, and a claim without a lock is void.
"""

import fcntl
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import psutil

from folovllm.installation.trusted_files import make_private_folder

log = logging.getLogger(__name__)

# Planning takes milliseconds; what takes longer has been stopped.
_LOCK_SECONDS = 2.0
_RETRY_SECONDS = 0.01
_SUFFIX = ".claim"


class Claim(NamedTuple):
    """What another engine has planned."""

    pid: int
    untouched: int
    """Bytes that it will still take."""

    def __str__(self) -> str:
        """The engine, for a user who looks for it."""
        ports = ", ".join(map(str, _listening_ports(self.pid)))
        return f"another engine (pid {self.pid}{', port ' if ports else ''}{ports})"


class HeldClaim:
    """This process's own claim, until it is released."""

    def __init__(self, path: Path, file: IO[str]) -> None:
        """`file` is that of `path`, open and locked."""
        self._path = path
        self._file = file
        self._pid = os.getpid()

    def release(self) -> None:
        """Ends the claim. A fork of the process has no part in it."""
        if os.getpid() == self._pid:
            with suppress(OSError):
                self._path.unlink()
        self._file.close()


class Planning:
    """The claims of a folder, while no other engine can plan."""

    def __init__(self, folder: Path | None, owner: int, others: tuple[Claim, ...] = ()) -> None:
        self.others = others
        """The claims of other owners."""
        self._folder = folder
        self._owner = owner

    def claim(self, num_bytes: int) -> HeldClaim | None:
        """Tells other engines that this process will take as much; None where that cannot be."""
        if self._folder is None:
            return None
        try:
            return _write(self._folder, self._owner, num_bytes)
        except OSError as error:
            _warn(error)
            return None


@contextmanager
def planning(folder: Path, owner: int) -> Iterator[Planning]:
    """Keeps other engines that use the folder from planning meanwhile.

    Claims of the same owner count as this process's own: other engines of a process, other ranks of
    an engine. Where the folder cannot be used, the log says so and there are no claims.
    """
    with ExitStack() as stack:
        try:
            make_private_folder(folder)
            stack.enter_context(_locked(folder / "lock"))
            found = [_read(path, owner) for path in sorted(folder.glob(f"*{_SUFFIX}"))]
            plan = Planning(folder, owner, tuple(claim for claim in found if claim is not None))
        except OSError as error:
            _warn(error)
            plan = Planning(None, owner)
        yield plan


def _warn(error: OSError) -> None:
    log.warning("engines on this host do not see each other's plans for its memory: %s", error)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Raises TimeoutError if another process keeps the lock."""
    give_up = time.monotonic() + _LOCK_SECONDS
    with path.open("a") as file:
        while not _lock(file):
            if time.monotonic() > give_up:
                raise TimeoutError(f"another process keeps {path} locked")
            time.sleep(_RETRY_SECONDS)
        yield


def _lock(file: IO[str]) -> bool:
    """Whether the file's lock was free; it is held until the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(folder: Path, owner: int, num_bytes: int) -> HeldClaim:
    """Raises OSError, without a file left."""
    descriptor, name = tempfile.mkstemp(_SUFFIX, f"{os.getpid()}-", folder)
    claim = HeldClaim(Path(name), file := os.fdopen(descriptor, "w"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        fields = {
            "pid": os.getpid(),
            "owner": owner,
            "planned": num_bytes,
            "resident": psutil.Process().memory_info().rss,
        }
        file.write(json.dumps(fields))
        file.flush()
    except OSError:
        claim.release()
        raise
    return claim


def _read(path: Path, owner: int) -> Claim | None:
    """The claim of a file; None if it is void, which removes it, unreadable or the owner's.

    What its process has grown by since is taken already, and None if that is everything.
    """
    try:
        with path.open("r+") as file:
            if _lock(file):
                path.unlink()
                return None
            fields = json.load(file)
        pid, planned = int(fields["pid"]), int(fields["planned"])
        if fields["owner"] == owner:
            return None
        grown = psutil.Process(pid).memory_info().rss - int(fields["resident"])
    # The last: a fork of a process that has ended keeps its lock.
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
    untouched = planned - max(0, grown)
    return Claim(pid, untouched) if untouched > 0 else None


def _listening_ports(pid: int) -> list[int]:
    try:
        connections = psutil.Process(pid).net_connections("inet")
    except psutil.Error:
        return []
    return sorted({each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN})
