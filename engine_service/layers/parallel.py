"""TensorParallel: a rank among those that compute one model, and what they exchange.

Each rank has its part of every matrix. The first matrix of a block is cut by its outputs, the one
after it by its inputs, so a layer exchanges only two sums over the ranks: M. Shoeybi et al.,
"Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism", 2019.

Every rank must make the same calls in the same order. All get the same bits from them. None syncs
with the host on a GPU, so a CUDA graph may hold them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch._C._distributed_c10d import AllgatherOptions, AllreduceOptions
from torch.distributed import ProcessGroup, ReduceOp

from folovllm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TensorParallel:
    """One of `size` ranks. `group` exchanges tensors of the model's device and of the CPU."""

    rank: int = 0
    size: int = 1
    group: ProcessGroup | None = None
    """None for a single rank."""

    def span(self, total: int) -> tuple[int, int]:
        """Start and end of this rank's share of `total` items.

        Shares are equal, except that the last ranks have fewer, or none, of what does not divide.
        """
        size = self.shard_size(total)
        return min(self.rank * size, total), min((self.rank + 1) * size, total)

    def shard_size(self, total: int) -> int:
        """Each rank's share of `total` items, once the last ones are padded."""
        return -(-total // self.size)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum of all ranks' tensors, in place; the tensor must be contiguous."""
        if self.group is not None:
            options = AllreduceOptions()
            options.asyncOp = False
            self.group.allreduce([tensor], options).wait()
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """[N, …], contiguous -> [size, N, …], in the order of the ranks."""
        if self.group is None:
            return tensor[None]
        gathered = tensor.new_empty(self.size * tensor.shape[0], *tensor.shape[1:])
        options = AllgatherOptions()
        options.asyncOp = False
        # The public name of this is not the same in all versions of torch.
        self.group._allgather_base(gathered, tensor, options).wait()
        return gathered.view(self.size, *tensor.shape)

    def all_reduce_min(self, number: int) -> int:
        """The minimum of all ranks' numbers. Raises ConfigError if another rank has ended."""
        if self.group is None:
            return number
        tensor = torch.tensor([number])
        try:
            self.group.allreduce([tensor], ReduceOp.MIN).wait()
        except RuntimeError:
            raise ConfigError("another rank has ended; its own last line says why") from None
        return int(tensor.item())


SINGLE = TensorParallel()
"""A model on one rank."""
