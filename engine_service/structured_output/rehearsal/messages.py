"""What the engine and a builder tell each other, as JSON."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Setting:
    """What all builds have in common."""

    vocabulary_path: str
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    token_seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a build took of processor and memory, or why the grammar cannot be served."""

    refusal: str | None = None
    seconds: float = 0.0
    num_bytes: int = 0


def encode(message: Setting | Outcome) -> bytes:
    """The message's bytes."""
    return json.dumps(asdict(message)).encode()
