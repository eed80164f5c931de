"""What the two ends of the pipe tell each other: one line of JSON for each message."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Setting:
    """What the server is started with."""

    vocabulary_path: str
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    memory_bytes: int
    token_seconds: float
    niceness: int = 5


@dataclass(frozen=True, slots=True)
class Order:
    """Build this grammar, or with no `spec`: kill the builder of the one with this number."""

    number: int
    spec: str | None = None
    processor_seconds: float = 0.0
    niceness: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of an order: how it ended, and what it took of processor and memory.

    `refusal` is why the grammar cannot be served; `signal` ended the builder, if any did. Number 0
    says that the server is ready.
    """

    number: int
    refusal: str | None = None
    signal: int = 0
    seconds: float = 0.0
    num_bytes: int = 0


def encode(message: Setting | Order | Outcome) -> bytes:
    """The message's line."""
    return json.dumps(asdict(message)).encode() + b"\n"
