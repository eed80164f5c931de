"""Sequences that the attention kernel computes step by step, in a cache of scattered blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from engine_service.kernels.cpu.library import Context
from engine_service.kernels.cpu.structures import AttentionCall, AttentionShape, AttentionStep
from engine_service.models.cpu_weights import address
from support.builders.cpu_kernels import BFLOAT16, EPS, context

NUM_BLOCKS = 64
MAX_POSITION = 512
QUERIES_OF_TASK = 32


@dataclass(frozen=True)
class Shape:
    """Of a layer and its cache."""

    kv_heads: int = 2
    group: int = 2
    head_dim: int = 64
    block_size: int = 16

    @property
    def heads(self) -> int:
        return self.kv_heads * self.group


class Cache:
    """One layer's, full of NaN; a block is laid out as attention.cpp says."""

    def __init__(self, shape: Shape) -> None:
        sizes = (NUM_BLOCKS, shape.kv_heads, shape.block_size, shape.head_dim)
        self.shape = shape
        self.keys, self.values = (torch.full(sizes, float("nan"), dtype=BFLOAT16) for _ in "kv")

    def views(self) -> tuple[Tensor, Tensor]:
        """Keys and values, each [blocks, block_size / n, n, kv_heads, head_dim / m, m]."""
        blocks, heads, size, dim = self.keys.shape
        keys = self.keys.view(blocks, heads, dim // 2, size, 1, 2).permute(0, 3, 4, 1, 2, 5)
        values = self.values.view(blocks, heads, size // 2, dim, 1, 2).permute(0, 2, 5, 1, 3, 4)
        return keys, values

    def tokens(self) -> tuple[Tensor, Tensor]:
        """Copies of keys and values, each [slots, kv_heads, head_dim]."""
        shape = (-1, self.shape.kv_heads, self.shape.head_dim)
        keys, values = (view.reshape(shape) for view in self.views())
        return keys, values

    def fill(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Puts tokens' keys and values, [tokens, kv_heads, head_dim], into slots."""
        for view, new in zip(self.views(), (keys, values), strict=True):
            _, _, places, *sizes = view.shape
            offsets = slots % self.shape.block_size
            target = (slots // self.shape.block_size, offsets // places, offsets % places)
            view.index_put_(target, new.view(len(slots), *sizes))


class Stream:
    """One sequence: its qkv before norm and rotation, and its blocks."""

    def __init__(self, shape: Shape, qkv: Tensor, blocks: Sequence[int]) -> None:
        self.qkv = qkv  # [length, heads + 2 * kv_heads, head_dim]
        self.blocks = torch.tensor(blocks)
        positions = torch.arange(len(qkv))
        size = shape.block_size
        self.slots = self.blocks[positions // size] * size + positions % size


class Layer:
    """What all calls have in common: angles, and norms if there are any."""

    def __init__(self, shape: Shape, *, with_norms: bool = True) -> None:
        generator = torch.Generator().manual_seed(0)
        self.shape = shape
        self.norms: list[Tensor | None] = [None, None]
        if with_norms:
            self.norms = [
                (1.5 + torch.rand(shape.head_dim, generator=generator)).to(BFLOAT16) for _ in "qk"
            ]
        half = shape.head_dim // 2
        frequencies = 1000.0 ** (-torch.arange(half) / half)
        angles = torch.outer(torch.arange(MAX_POSITION).float(), frequencies)
        self.cos, self.sin = angles.cos(), angles.sin()

    def streams(self, lengths: Sequence[int], seed: int = 0) -> list[Stream]:
        """Random sequences in scattered blocks that no two of them share."""
        generator = torch.Generator().manual_seed(seed)
        shape, size = self.shape, self.shape.block_size
        free = torch.randperm(NUM_BLOCKS, generator=generator).tolist()
        channels = (shape.heads + 2 * shape.kv_heads, shape.head_dim)
        return [
            Stream(
                shape,
                torch.randn(length, *channels, generator=generator).to(BFLOAT16),
                [free.pop() for _ in range(-(-length // size))],
            )
            for length in lengths
        ]

    def step(
        self,
        cache: Cache,
        parts: Sequence[tuple[Stream, int, int]],
        on: Context | None = None,
        order: int = 0,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Computes tokens `start` to `end` of sequences: what came out, and their rotated qkv.

        `order` seeds the order of the tasks, and how many heads each has.
        """
        shape = self.shape
        counts = [end - start for _, start, end in parts]
        starts = np.array([0, *accumulate(counts)])
        seq_lens = np.array([end for _, _, end in parts])
        width = 1 + max(len(stream.blocks) for stream, _, _ in parts)
        tables = torch.zeros(len(parts), width, dtype=torch.int64)
        for row, (stream, _, _) in enumerate(parts):
            tables[row, : len(stream.blocks)] = stream.blocks
        slots = torch.cat([stream.slots[start:end] for stream, start, end in parts])
        positions = torch.cat([torch.arange(start, end) for _, start, end in parts])
        heads = 1 + order % shape.kv_heads
        tasks = np.array(
            [
                (row, head, min(heads, shape.kv_heads - head), query)
                for row, count in enumerate(counts)
                for head in range(0, shape.kv_heads, heads)
                for query in range(0, count, QUERIES_OF_TASK)
            ]
        )
        tasks = np.random.default_rng(order).permutation(tasks)
        qkv = torch.cat([stream.qkv[start:end] for stream, start, end in parts])
        output = torch.empty(len(qkv), shape.heads, shape.head_dim, dtype=BFLOAT16)
        step = AttentionStep(
            starts.ctypes.data,
            seq_lens.ctypes.data,
            tables.data_ptr(),
            slots.data_ptr(),
            positions.data_ptr(),
            self.cos.data_ptr(),
            self.sin.data_ptr(),
            tasks.ctypes.data,
            len(parts),
            width,
            len(tasks),
        )
        call = AttentionCall(
            qkv.data_ptr(),
            cache.keys.data_ptr(),
            cache.values.data_ptr(),
            output.data_ptr(),
            *map(address, self.norms),
            EPS,
        )
        sizes = AttentionShape(shape.heads, shape.kv_heads, shape.head_dim, shape.block_size)
        (on or context()).attention(sizes, step, call)
        return list(torch.split(output, counts)), list(torch.split(qkv, counts))
