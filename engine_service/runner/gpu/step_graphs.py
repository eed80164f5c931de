"""StepGraphs: steps as CUDA graphs, one for each of some sizes; smaller steps are padded."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

from engine_service.kernels.gpu.sampling.sampler import Workspace, draw
from engine_service.kernels.gpu.state.sequence_states import advance
from engine_service.layers.attention.backend import KVCache
from engine_service.models.gpu_decoder import GpuDecoder
from engine_service.runner.gpu.device_state import DeviceState


class StepGraphs(ABC):
    """A fixed sequence of kernels on fixed addresses, captured once on a GPU and replayed."""

    kind: ClassVar[str]

    def __init__(
        self,
        model: GpuDecoder,
        kv_caches: Sequence[KVCache],
        block_size: int,
        state: DeviceState,
        workspace: Workspace,
        sizes: Sequence[int],
    ) -> None:
        """`sizes` are what a step may compute, ascending."""
        self._model, self._kv_caches, self._block_size = model, kv_caches, block_size
        self._state, self._workspace, self._sizes = state, workspace, sizes
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def capture(self, show_progress: bool) -> None:
        """Captures every size, on a GPU; the largest first, whose memory the others share."""
        if self._model.device.type != "cuda":
            return
        pool = torch.cuda.graph_pool_handle()
        sizes = self._sizes[::-1]
        label = f"Capturing {self.kind} steps"
        for size in tqdm(sizes, desc=label, disable=not show_progress, leave=False):
            self._upload_padding(size)
            self._compute(size)  # compiles the kernels
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                logits = self._compute(size)
            self._graphs[size] = graph, logits
        torch.cuda.synchronize(self._model.device)

    def _replay(self, size: int) -> Tensor:
        """Computes a step and returns its logits, which the next step overwrites."""
        captured = self._graphs.get(size)
        if captured is None:
            return self._compute(size)
        graph, logits = captured
        graph.replay()
        return logits

    def _draw(self, logits: Tensor, rows: Tensor, token_ids: Tensor) -> None:
        """Draws a token for each row of the logits, and appends it to the state in `rows`."""
        state = self._state
        draw(logits, rows, state.draw_params, self._workspace, token_ids)
        advance(rows, token_ids, state.last_tokens, state.lengths, state.num_states)

    @abstractmethod
    def _upload_padding(self, size: int) -> None:
        """Makes the inputs those of a step of nothing but padding."""

    @abstractmethod
    def _compute(self, size: int) -> Tensor:
        """Launches a step's kernels and returns its logits."""
