"""TensorParallel: a rank's place among those that compute one model, and what they exchange.

Each rank has its part of every matrix. Those that hidden states are multiplied with first are cut
by their outputs, those after them by their inputs, so that a layer exchanges no more than two sums
over the ranks: M. Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models
Using Model Parallelism", 2019.

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
    """None where there is nobody to exchange anything with."""

    def span(self, total: int) -> tuple[int, int]:
        """The first of `total` things that is this rank's, and the first after it that is not.

        All ranks have equally many, but that the last ones have fewer, or none, of what cannot be
        divided.
        """
        each = self.each(total)
        return min(self.rank * each, total), min((self.rank + 1) * each, total)

    def each(self, total: int) -> int:
        """How many of `total` things the ranks have, the last ones filled up."""
        return -(-total // self.size)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum of all ranks' tensors, in the place of a contiguous one, which comes back."""
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

    def smallest(self, number: int) -> int:
        """The least of all ranks' numbers. Raises ConfigError where another rank has ended."""
        if self.group is None:
            return number
        tensor = torch.tensor([number])
        try:
            self.group.allreduce([tensor], ReduceOp.MIN).wait()
        except RuntimeError:
            raise ConfigError("another rank has ended; its own last line says why") from None
        return int(tensor.item())


SINGLE = TensorParallel()
"""A model that is computed as a whole."""
