"""RecordFile: several processes append whole lines to it, and only its owner may read it."""

import errno
import fcntl
import os
import stat
from pathlib import Path

from folovllm.errors import ConfigError

_MODE = stat.S_IRUSR | stat.S_IWUSR
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class RecordFile:
    """Opens the file, or makes it with mode 0600. Raises ConfigError for one that is not private.

    A lock keeps lines of several processes apart. A line that cannot be written whole leaves
    nothing behind. A file that was moved away or deleted is made anew for the next line, so that
    `mv` is all it takes to rotate it. Belongs to one thread.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = _open_private(path)

    def append(self, line: bytes) -> None:
        """Writes a line with its end. Raises OSError, or ConfigError as the constructor does.

        It may wait for other processes that write.
        """
        if not self._is_in_place():
            self.close()
            self._fd = _open_private(self.path)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            self._write_whole(line)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Closes it; nothing may be appended afterwards, but by `append` itself."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _is_in_place(self) -> bool:
        """Whether the path still names the open file."""
        if self._fd < 0:
            return False
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self._fd))

    def _write_whole(self, line: bytes) -> None:
        size = os.fstat(self._fd).st_size
        # Whoever was killed while it wrote has left a line without an end.
        is_broken_off = size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"
        rest = memoryview(b"\n" + line if is_broken_off else line)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            os.ftruncate(self._fd, size)
            raise


def _open_private(path: Path) -> int:
    """A descriptor to append to. Raises ConfigError."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, _MODE)
    except OSError as error:
        why = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise ConfigError(f"{path} cannot be written: {why}") from None
    found = os.fstat(fd)
    problem = ""
    if not stat.S_ISREG(found.st_mode):
        problem = "is no file"
    elif found.st_uid != os.geteuid():
        problem = "belongs to another user"
    elif found.st_mode & _OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        problem = f"may be read or written by others (mode {mode:04o}); `chmod 600` it"
    if problem:
        os.close(fd)
        raise ConfigError(f"{path} {problem}")
    return fd
