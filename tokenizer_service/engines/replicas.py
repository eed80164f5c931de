"""Replicas: which engines stand in for each other, and so may be sent requests."""

import fcntl
import os


class Replicas:
    """Knows what the engines in use serve, by their replica fingerprints.

    That is what is expected, or else what the first ready engine has served. An engine keeps it in
    force until the same address serves something else: one that is gone may come back. When no
    engine is left that keeps it, the next one decides anew.
    """

    def __init__(self, expected: str = "", shared: int | None = None) -> None:
        """`shared` is the descriptor of an empty file through which several processes decide."""
        self._expected = expected
        self._keepers: set[str] = set()  # addresses
        self.fingerprint = expected
        """What the engines in use serve; empty while nothing is decided."""
        self._was_kept = False  # here; what only another process has met is that one's to change
        self._shared = shared

    @property
    def has_keepers(self) -> bool:
        """Whether any engine serves it, or did when it was heard of last."""
        return bool(self._keepers)

    def forget(self, address: str) -> None:
        """The engine at `address` serves something else altogether."""
        self._keepers.discard(address)

    def mismatch(self, address: str, fingerprint: str) -> str:
        """Why the engine at `address` is none of them, in words; empty if it is, from now on."""
        if fingerprint != self.fingerprint:
            self._keepers.discard(address)
        if not self._keepers and not self._expected:
            self.fingerprint = self._decide(fingerprint)
        if fingerprint == self.fingerprint:
            self._keepers.add(address)
            self._was_kept = True
            return ""
        return (
            f"it serves other weights, or with other settings: its replica fingerprint is "
            f"{fingerprint or 'missing'}, {self._whose()} is {self.fingerprint or 'missing'}"
        )

    def _whose(self) -> str:
        if self._expected:
            return "the one of --expect-fingerprint"
        return f"that of {' and '.join(sorted(self._keepers)) or 'the engines in use'}"

    def _decide(self, fingerprint: str) -> str:
        """What all processes use: this, if nothing is decided or what was has no keeper left."""
        file = self._shared
        if file is None:
            return fingerprint
        fcntl.lockf(file, fcntl.LOCK_EX)
        try:
            decided = os.pread(file, 1024, 0).decode()
            if decided and not (self._was_kept and decided == self.fingerprint):
                return decided
            os.ftruncate(file, 0)
            os.pwrite(file, fingerprint.encode(), 0)
            return fingerprint
        finally:
            fcntl.lockf(file, fcntl.LOCK_UN)
