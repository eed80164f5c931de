"""This machine under measurement: its GPU if torch sees one, else its processors."""

import torch
from torch.utils.benchmark import Timer

from benchmarks.peers.peer import PeerConfig


class Machine:
    """Measures ceilings."""

    def __init__(self, config: PeerConfig) -> None:
        self._threads = config.threads
        self._device = "cuda" if torch.cuda.is_available() else "cpu"

    def ceilings(self, read_mib: int, gemm_size: int) -> list[float]:
        """Bytes and operations a second.

        Reads or copies `read_mib` MiB, far more than the caches hold, and multiplies square
        matrices of normal numbers in bf16: of zeros it would be faster than in any use.
        """
        values = torch.ones(read_mib * 2**18, device=self._device)
        size = (gemm_size, gemm_size)
        left, right = (torch.randn(*size, device=self._device).bfloat16() for _ in range(2))
        product = torch.empty_like(left)
        operations = 2.0 * gemm_size**3
        multiplied = self._seconds(
            "torch.matmul(left, right, out=product)", left=left, right=right, product=product
        )
        if self._device == "cpu":
            read = self._seconds("values.sum()", values=values)
            return [values.nbytes / read, operations / multiplied]
        copy = torch.empty_like(values)
        copied = self._seconds("copy.copy_(values)", copy=copy, values=values)
        return [2 * values.nbytes / copied, operations / multiplied]

    def _seconds(self, statement: str, **tensors: torch.Tensor) -> float:
        """The fastest repeat on a CPU; a GPU's median, over so long that its clocks settle."""
        timer = Timer(statement, globals={"torch": torch, **tensors}, num_threads=self._threads)
        measured = timer.blocked_autorange(min_run_time=0.5)
        return min(measured.times) if self._device == "cpu" else measured.median
