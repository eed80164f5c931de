"""DecodeGraphs: a step in which every sequence computes one token and draws one, all on the device.

Its inputs come from slots and its results go there, so the whole step is a fixed sequence of
kernels on fixed addresses. On a GPU it is captured once for each of some numbers of rows and
replayed; rows that are not needed are padding, and change nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from engine_service.kernels.gpu.sampling.sampler import Workspace, draw
from engine_service.kernels.gpu.state import slots
from engine_service.layers.attention.backend import KVCache
from engine_service.layers.attention.gpu_attention import GpuBatch, SequenceGroup
from engine_service.models.gpu_decoder import GpuDecoder
from engine_service.runner.gpu.slot_table import SlotTable


def graph_sizes(max_num_seqs: int) -> list[int]:
    """Numbers of rows that graphs are captured for; what is padded costs little in each."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, max_num_seqs, 32)]
    return [*(size for size in sizes if size < max_num_seqs), max_num_seqs]


class DecodeGraphs:
    """Owns the buffers of steps of up to `max_num_seqs` rows."""

    def __init__(
        self,
        model: GpuDecoder,
        kv_caches: Sequence[KVCache],
        block_size: int,
        max_num_seqs: int,
        slot_table: SlotTable,
        workspace: Workspace,
    ) -> None:
        self._model, self._kv_caches, self._block_size = model, kv_caches, block_size
        self._slots, self._workspace = slot_table, workspace
        self._sizes = graph_sizes(max_num_seqs)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

        def numbers(dtype: torch.dtype) -> Tensor:
            return torch.zeros(max_num_seqs, dtype=dtype, device=model.device)

        self._input_ids, self._positions = numbers(torch.int32), numbers(torch.int32)
        self._slot_mapping, self._seq_lens = numbers(torch.int64), numbers(torch.int32)
        self._token_ids = numbers(torch.int32)

    def size_for(self, num_rows: int) -> int:
        """The rows of the step that computes so many."""
        return next(size for size in self._sizes if size >= num_rows)

    def capture(self, show_progress: bool) -> None:
        """Captures every size, on a GPU; the largest first, whose memory the others share."""
        if self._model.device.type != "cuda":
            return
        self._slots.set_rows([], self._sizes[-1])
        changes = self._slots.take_changes()
        if changes is not None:
            slots.set_words(self._slots.words, torch.from_numpy(changes).to(self._model.device))
        pool = torch.cuda.graph_pool_handle()
        sizes = self._sizes[::-1]
        for size in tqdm(sizes, desc="Capturing graphs", disable=not show_progress, leave=False):
            self._compute(size)  # compiles the kernels
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                logits = self._compute(size)
            self._graphs[size] = graph, logits
        torch.cuda.synchronize(self._model.device)

    def run(self, size: int) -> tuple[Tensor, Tensor]:
        """One step of the slots in the table's rows: token ids int32 [size], and their logits.

        Both are overwritten by the next step. -1 stands where a row's logits are not finite.
        """
        captured = self._graphs.get(size)
        if captured is None:
            return self._token_ids[:size], self._compute(size)
        graph, logits = captured
        graph.replay()
        return self._token_ids[:size], logits

    def _compute(self, size: int) -> Tensor:
        table, rows = self._slots, self._slots.rows[:size]
        inputs = self._input_ids[:size], self._positions[:size]
        slot_mapping, seq_lens = self._slot_mapping[:size], self._seq_lens[:size]
        slots.gather_inputs(
            rows,
            table.last_tokens,
            table.lengths,
            table.block_tables,
            self._block_size,
            *inputs,
            slot_mapping,
            seq_lens,
        )
        batch = GpuBatch(
            slot_mapping=slot_mapping,
            block_tables=table.block_tables,
            split=SequenceGroup(seq_lens, rows, None),
            split_query_len=1,
        )
        hidden = self._model.forward(*inputs, self._kv_caches, batch)
        logits = self._model.compute_logits(hidden)
        token_ids = self._token_ids[:size]
        draw(logits, rows, table.draw_params, self._workspace, token_ids)
        slots.advance(rows, token_ids, table.last_tokens, table.lengths, table.num_slots)
        return logits
