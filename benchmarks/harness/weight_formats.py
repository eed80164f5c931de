"""Weight formats: how many bytes each takes of memory, and so of a decode step's reading."""

from dataclasses import dataclass

_SCALE = 2 / 32  # 16 bits for each group of 32 weights


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes of one weight. Scales of whole rows weigh nothing."""

    layer: float
    head: float
    """Of the output layer."""


# int4 is in groups of 32 with the output layer in int8, as here and in OpenVINO.
_BYTES = {
    "bf16": WeightBytes(2.0, 2.0),
    "int8": WeightBytes(1.0, 1.0),
    "int4": WeightBytes(0.5 + _SCALE, 1.0),
}
# Q8_0 has groups too, and Q4_0 is for the output layer as well.
_LLAMA_CPP_BYTES = {
    "int8": WeightBytes(1.0 + _SCALE, 1.0 + _SCALE),
    "int4": WeightBytes(0.5 + _SCALE, 0.5 + _SCALE),
}
WEIGHT_FORMATS = tuple(_BYTES)


def weight_bytes(peer: str, weight_format: str) -> WeightBytes:
    """What an engine reads in one of WEIGHT_FORMATS."""
    if peer == "llama_cpp":
        return _LLAMA_CPP_BYTES.get(weight_format, _BYTES[weight_format])
    return _BYTES[weight_format]
