"""The order of values in whole rows of a vocabulary.

On the CPU by NumPy, whose sorting uses a processor's vectors and is many times as fast as torch's.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def sorted_falling(values: Tensor) -> Tensor:
    """Each row's values, the largest first, [rows, columns], float32."""
    if values.device.type != "cpu":
        return values.sort(dim=-1, descending=True).values
    rising = -values.numpy()
    rising.sort(axis=-1)
    return torch.from_numpy(rising).neg_()


def kth_largest(values: Tensor, ks: Sequence[int]) -> Tensor:
    """The k-th largest value of each row, [rows, 1]; 1 <= k <= columns. float32."""
    if values.device.type != "cpu":
        rows = [row.topk(k).values[-1] for row, k in zip(values, ks, strict=True)]
        return torch.stack(rows)[:, None]
    ranks = [values.shape[-1] - k for k in ks]
    rows = [np.partition(row, rank)[rank] for row, rank in zip(values.numpy(), ranks, strict=True)]
    return torch.from_numpy(np.array(rows)[:, None])
