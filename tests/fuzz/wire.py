"""What no message class would write: broken bytes, wrong UTF-8, unknown fields, huge counts."""

import random

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from chaos.attacks.wire import field, nested, paths, varint

_BAD_UTF8 = (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"ok\xfe")
_HUGE = (1_000, 20_000, 200_000)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, lost, doubled, moved or new."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(found) + 1)
        end = min(len(found), at + rng.randint(1, 8))
        kind = rng.randrange(5)
        if kind == 0:
            del found[at:end]
        elif kind == 1:
            found[at:at] = found[at:end]
        elif kind == 2:
            found[at:at] = rng.randbytes(rng.randint(1, 8))
        elif kind == 3 and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        else:
            del found[rng.randrange(len(found) + 1) :]
    return bytes(found)


def with_unknown(rng: random.Random, data: bytes) -> bytes:
    """Fields that the type does not have, of every wire type, groups included."""
    for _ in range(rng.randint(1, 3)):
        number = rng.choice((15, 500, 19_000, 2**29 - 1))
        wire_type = rng.choice((0, 1, 2, 3, 5))
        tag = varint(number << 3 | wire_type)
        payload = {
            0: varint(rng.getrandbits(63)),
            1: rng.randbytes(8),
            2: varint(3) + b"abc",
            3: varint(number << 3 | 4),
            5: rng.randbytes(4),
        }[wire_type]
        data = rng.choice((data + tag + payload, tag + payload + data))
    return data


def wrong_text(rng: random.Random, descriptor: Descriptor) -> bytes:
    """A text that is no UTF-8, in any field that takes one."""
    found = [*paths(descriptor, (FieldDescriptor.TYPE_STRING,))]
    return nested(rng.choice(found), rng.choice(_BAD_UTF8)) if found else b"\x0a\x01\xff"


def huge_count(rng: random.Random, descriptor: Descriptor) -> bytes:
    """Very many empty messages, texts or numbers in any field that takes one, or may not."""
    kinds = (
        *(FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_STRING),
        *(FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_BYTES),
    )
    found = [*paths(descriptor, kinds)]
    if not found:
        return b""
    *outer, last = rng.choice(found)
    count = rng.choices(_HUGE, (20, 4, 1))[0]
    entries = rng.choice((field(last, b"") * count, field(last, b"\x01" * count)))
    return nested(outer, entries)
