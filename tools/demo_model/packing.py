"""Samples to batches: several samples share a row, and none sees another.

Rows come in two widths, so that short samples do not pay for the attention of long ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from tokenizers import Tokenizer

from tools.demo_model.sample import Sample
from tools.demo_model.template import segments

NARROW, WIDE = 128, 384


@dataclass(frozen=True)
class Encoded:
    """Token ids of one sample, and which of them the model learns to write."""

    ids: list[int]
    learned: list[bool]


@dataclass(frozen=True)
class Batch:
    """Rows of packed samples: inputs, what follows each position, and who may see whom."""

    input_ids: torch.Tensor
    targets: torch.Tensor
    """The next token where it is learned, -100 elsewhere."""
    attention_mask: torch.Tensor
    position_ids: torch.Tensor


def encode(tokenizer: Tokenizer, sample: Sample) -> Encoded:
    """The sample's token ids; prompt and continuation are encoded apart, as in serving."""
    ids: list[int] = []
    learned: list[bool] = []
    for text, is_learned in segments(sample):
        piece = tokenizer.encode(text, add_special_tokens=False).ids
        ids += piece
        learned += [is_learned] * len(piece)
    return Encoded(ids, learned)


def batches(
    tokenizer: Tokenizer, stream: Iterator[Sample], samples_per_step: int
) -> Iterator[list[Batch]]:
    """One list of batches for each training step; samples too long for a row are left out."""
    while True:
        encoded = [encode(tokenizer, sample) for sample in islice(stream, samples_per_step)]
        short = [item for item in encoded if len(item.ids) <= NARROW]
        long = [item for item in encoded if NARROW < len(item.ids) <= WIDE]
        yield [pack(items, width) for items, width in ((short, NARROW), (long, WIDE)) if items]


def pack(items: list[Encoded], width: int) -> Batch:
    """Fill rows, the longest samples first, each into the first row with room for it."""
    rows: list[list[Encoded]] = []
    room: list[int] = []
    for item in sorted(items, key=lambda item: -len(item.ids)):
        size = len(item.ids)
        index = next((i for i, free in enumerate(room) if free >= size), len(rows))
        if index == len(rows):
            rows.append([])
            room.append(width)
        rows[index].append(item)
        room[index] -= size
    return _tensors(rows, width)


def _tensors(rows: list[list[Encoded]], width: int) -> Batch:
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    targets = torch.full((len(rows), width), -100, dtype=torch.long)
    owner = torch.full((len(rows), width), -1, dtype=torch.long)
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    for row, items in enumerate(rows):
        start = 0
        for number, item in enumerate(items):
            size = len(item.ids)
            ids, learned = torch.tensor(item.ids), torch.tensor(item.learned)
            input_ids[row, start : start + size] = ids
            targets[row, start : start + size - 1] = torch.where(learned[1:], ids[1:], -100)
            owner[row, start : start + size] = number
            positions[row, start : start + size] = torch.arange(size)
            start += size
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    same_sample = owner[:, :, None] == owner[:, None, :]
    return Batch(input_ids, targets, (same_sample & causal)[:, None], positions)
