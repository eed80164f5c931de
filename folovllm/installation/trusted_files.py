"""Which cached files are as this user has left them: what others may write is not executed."""

import os
import stat
from pathlib import Path


def distrust(path: Path) -> str | None:
    """Why others may have written a file or folder, in words; None if they may not.

    It, and every folder above it, must belong to this user or to root, and be writable by its owner
    alone. Above it a folder like /tmp will do, in which no one can replace what belongs to another.
    """
    path = path.resolve()
    for place in (path, *path.parents):
        try:
            status = place.stat()
        except OSError as error:
            return f"{place}: {error.strerror}"
        if status.st_uid not in (os.geteuid(), 0):
            return f"{place} belongs to another user"
        sticky = place != path and status.st_mode & stat.S_ISVTX
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
            return f"others may write to {place}"
    return None


def make_private_folder(folder: Path) -> None:
    """Makes a folder, and those above it, for this user alone, as far as they are not there.

    Raises OSError.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(mode=0o700, exist_ok=True)


def make_private(path: Path) -> None:
    """Lets no one but its owner write to a file. Raises OSError."""
    path.chmod(path.stat().st_mode & ~(stat.S_IWGRP | stat.S_IWOTH))
