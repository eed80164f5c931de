"""What Triton's interpreter computes wrongly, or slowly, put right. Seen up to Triton 3.9.

It keeps bfloat16 as bits in integers, and `tl.dot` multiplies those. Where it rounds a number to
fewer bits it drops the carry into the exponent: 1.99 becomes 1. Whenever a kernel calls a function
it looks through the whole language for what is to be interpreted. What is launched changes that
language meanwhile, so launches by several threads have to take turns.
"""

import threading
from functools import cache
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

_TYPES = {
    tl.float32: (torch.float32, 4),
    tl.float16: (torch.float16, 2),
    tl.bfloat16: (torch.bfloat16, 2),
    tl.float8e4nv: (torch.float8_e4m3fn, 1),
}


def _convert(data: Any, source: Any, target: Any, _: Any) -> Any:
    """The bits of numbers in another type, rounded to nearest even."""
    (own, size), (other, new_size) = _TYPES[source], _TYPES[target]
    raw = torch.from_numpy(np.ascontiguousarray(data).view(f"i{size}"))
    converted = raw.view(own).to(other).view(getattr(torch, f"int{8 * new_size}"))
    return converted.numpy().view(f"u{new_size}")


def _widened(operand: Any) -> Any:
    """bfloat16 as float32."""
    if operand.dtype.scalar != tl.bfloat16:
        return operand
    bits = operand.data.astype(np.uint32) << 16
    return interpreter.TensorHandle(bits.view(np.float32), tl.float32)


@cache
def _names(package: Any) -> list[str]:
    """What may be interpreted in a part of the language."""
    return [name for name in dir(package) if tl.core.is_builtin(getattr(package, name))]


def _patch_builtin(package: Any, builder: Any, scope: Any) -> None:
    for name in _names(package):
        member = getattr(package, name)
        if tl.core.is_builtin(member):
            interpreter._patch_attr(package, name, member, builder, scope)


def repair() -> None:
    """Replaces them for the whole process."""
    create_dot = interpreter.InterpreterBuilder.create_dot

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return create_dot(self, _widened(a), _widened(b), *rest)

    launch, turn = interpreter.GridExecutor.__call__, threading.Lock()

    def launch_in_turn(self: Any, *arguments: Any, **options: Any) -> None:
        with turn:
            launch(self, *arguments, **options)

    interpreter.InterpreterBuilder.create_dot = dot
    interpreter.GridExecutor.__call__ = launch_in_turn
    interpreter._convert_float = _convert
    interpreter._patch_builtin = _patch_builtin
