"""Replicas: which engines stand in for each other, and so may be sent requests."""


class Replicas:
    """Knows what the engines in use serve, by their replica fingerprints.

    That is what is expected, or else what the first ready engine has served. An engine keeps it in
    force until the same address serves something else: one that is gone may come back. When no
    engine is left that keeps it, the next one decides anew.
    """

    def __init__(self, expected: str = "") -> None:
        self._expected = expected
        self._keepers: set[str] = set()  # addresses
        self.fingerprint = expected
        """What the engines in use serve; empty while nothing is decided."""

    @property
    def decided(self) -> bool:
        """Whether it is known what the engines in use serve."""
        return bool(self._expected or self._keepers)

    def mismatch(self, address: str, fingerprint: str) -> str:
        """Why the engine at `address` is none of them, in words; empty if it is, from now on."""
        if fingerprint != self.fingerprint:
            self._keepers.discard(address)
        if not self.decided:
            self.fingerprint = fingerprint
        if fingerprint == self.fingerprint:
            self._keepers.add(address)
            return ""
        others = " and ".join(sorted(self._keepers))
        ours = "the one of --expect-fingerprint" if self._expected else f"that of {others}"
        return (
            f"it serves other weights, or with other settings: its replica fingerprint is "
            f"{fingerprint or 'missing'}, {ours} is {self.fingerprint or 'missing'}"
        )
