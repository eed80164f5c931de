"""Case: what one call sends, and in which manner. It follows from a seed and its number alone."""

import base64
import random
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from chaos.attacks.shot import SERVICES
from fuzz.values import Filler
from fuzz.wire import huge_count, mutated, with_unknown, wrong_text

METHODS: tuple[tuple[str, MethodDescriptor], ...] = tuple(
    (target, method) for target, service in SERVICES.items() for method in service.methods
)
_METHOD_WEIGHTS = [1.0 if method.input_type.fields else 0.2 for _, method in METHODS]
"""There is little to be wrong in a message without fields."""
_MAX_SHOWN = 600
_MAX_BYTES = 4 * 2**20 - 1024


@dataclass(frozen=True, slots=True)
class Case:
    """Messages for one call; more than one where the caller streams."""

    number: int
    target: str
    method: MethodDescriptor
    kind: str
    messages: tuple[bytes, ...]
    cancels: bool
    """Whether the caller ends the call at its first answer."""

    def __str__(self) -> str:
        data = " ".join(base64.b64encode(each).decode() for each in self.messages)
        size = sum(map(len, self.messages))
        shown = data if len(data) <= _MAX_SHOWN else f"{data[:_MAX_SHOWN]}..."
        return f"{self.method.full_name} ({self.kind}, {size} bytes): {shown}"


Maker = Callable[[random.Random, MethodDescriptor], bytes]


def _filled(wild: float) -> Maker:
    def make(rng: random.Random, method: MethodDescriptor) -> bytes:
        message = GetMessageClass(method.input_type)()
        Filler(rng, wild).fill(message)
        return message.SerializeToString()

    return make


_valid, _nearly_valid, _wild = _filled(0.0), _filled(0.04), _filled(0.5)


def _mutated(rng: random.Random, method: MethodDescriptor) -> bytes:
    return mutated(rng, _nearly_valid(rng, method))


def _random(rng: random.Random, method: MethodDescriptor) -> bytes:
    return rng.randbytes(int(2 ** rng.uniform(0, 10)))


def _unknown(rng: random.Random, method: MethodDescriptor) -> bytes:
    return with_unknown(rng, _valid(rng, method))


def _twice(rng: random.Random, method: MethodDescriptor) -> bytes:
    """Two messages in one: fields come twice, and several members of a oneof."""
    return _valid(rng, method) + _nearly_valid(rng, method)


def _huge(rng: random.Random, method: MethodDescriptor) -> bytes:
    return (_valid(rng, method) + huge_count(rng, method.input_type))[:_MAX_BYTES]


def _wrong_text(rng: random.Random, method: MethodDescriptor) -> bytes:
    return _valid(rng, method) + wrong_text(rng, method.input_type)


KINDS: dict[str, tuple[Maker, float]] = {
    "valid": (_valid, 2),
    "nearly valid": (_nearly_valid, 4),
    "wild": (_wild, 3),
    "mutated": (_mutated, 3),
    "random": (_random, 2),
    "unknown fields": (_unknown, 1),
    "twice": (_twice, 2),
    "huge count": (_huge, 0.3),
    "wrong text": (_wrong_text, 1),
}
_NAMES = tuple(KINDS)
_WEIGHTS = [weight for _, weight in KINDS.values()]


def case(seed: int, number: int) -> Case:
    """One case, always the same."""
    rng = random.Random(f"{seed} {number}")
    [(target, method)] = rng.choices(METHODS, _METHOD_WEIGHTS)
    [kind] = rng.choices(_NAMES, _WEIGHTS)
    make, _ = KINDS[kind]
    count = rng.randint(1, 4) if method.client_streaming else 1
    messages = tuple(make(rng, method) for _ in range(count))
    return Case(number, target, method, kind, messages, cancels=rng.random() < 0.1)
