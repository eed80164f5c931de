"""Fresh seeds, for requests without one."""

import secrets


def new_seed() -> int:
    """A seed from the operating system, in [0, 2**63): it fits a signed 64-bit integer too."""
    return secrets.randbits(63)
