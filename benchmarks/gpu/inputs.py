"""Inputs of kernels: random tensors, and sequences in a paged KV cache."""

import torch
from torch import Tensor

from benchmarks.gpu.plan import GpuPlan
from benchmarks.harness.model_shape import ModelShape


def random_tensor(device: torch.device, *size: int) -> Tensor:
    """Normal numbers in bfloat16."""
    return torch.randn(*size, device=device, dtype=torch.bfloat16)


class PagedBatch:
    """A KV cache of `batch` sequences of `context` tokens each, its blocks in random order."""

    def __init__(
        self, shape: ModelShape, plan: GpuPlan, device: torch.device, batch: int, context: int
    ) -> None:
        blocks = -(-context // plan.block_size)
        size = batch * blocks, shape.num_key_value_heads, plan.block_size, shape.head_dim
        # A block is laid out head by head, as the engine's are.
        self.cache = tuple(random_tensor(device, *size).transpose(1, 2) for _ in range(2))
        order = torch.randperm(batch * blocks, device=device, dtype=torch.int32)
        self.block_tables = order.view(batch, blocks)
        self.table_rows = torch.arange(batch, dtype=torch.int32, device=device)
        self.seq_lens = torch.full((batch,), context, dtype=torch.int32, device=device)
