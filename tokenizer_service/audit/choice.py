"""Which requests are verified: a share of all, the same ones whoever asks."""

from hashlib import sha256

_NUM_BYTES = 8


def is_chosen(request_id: str, share: float) -> bool:
    """Whether a request belongs to the share, from 0 for none to 1 for all."""
    drawn = int.from_bytes(sha256(request_id.encode()).digest()[:_NUM_BYTES], "big")
    return drawn < share * 2.0 ** (8 * _NUM_BYTES)
