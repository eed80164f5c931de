"""DecodeGraphs: steps in which every sequence computes one token and draws one.

Inputs come from the state that stays on the device, and results go there. Padding rows have a state
of their own and change nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine_service.kernels.gpu.sampling.sampler import Workspace
from engine_service.kernels.gpu.state.sequence_states import gather_inputs
from engine_service.layers.attention.backend import KVCache
from engine_service.layers.attention.gpu_attention import GpuBatch, SequenceGroup
from engine_service.models.gpu_decoder import GpuDecoder
from engine_service.runner.gpu.device_state import DeviceState
from engine_service.runner.gpu.step_graphs import StepGraphs


def graph_sizes(max_num_seqs: int) -> list[int]:
    """Numbers of rows that graphs are captured for; padding up to the next costs little."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, max_num_seqs, 32)]
    return [*(size for size in sizes if size < max_num_seqs), max_num_seqs]


class DecodeGraphs(StepGraphs):
    """Owns the buffers of steps of up to `max_num_seqs` rows."""

    kind = "decode"

    def __init__(
        self,
        model: GpuDecoder,
        kv_caches: Sequence[KVCache],
        block_size: int,
        max_num_seqs: int,
        state: DeviceState,
        workspace: Workspace,
    ) -> None:
        sizes = graph_sizes(max_num_seqs)
        super().__init__(model, kv_caches, block_size, state, workspace, sizes)

        def numbers(dtype: torch.dtype) -> Tensor:
            return torch.zeros(max_num_seqs, dtype=dtype, device=model.device)

        self._input_ids, self._positions = numbers(torch.int32), numbers(torch.int32)
        self._slot_mapping, self._seq_lens = numbers(torch.int64), numbers(torch.int32)
        self._token_ids = numbers(torch.int32)

    def size_for(self, num_rows: int) -> int:
        """The rows of the step that computes `num_rows`."""
        return next(size for size in self._sizes if size >= num_rows)

    def run(self, size: int) -> tuple[Tensor, Tensor]:
        """One step of the states in the present rows: token ids int32 [size], and their logits.

        The next step overwrites both. A row whose logits are not finite gets -1.
        """
        logits = self._replay(size)
        return self._token_ids[:size], logits

    def _upload_padding(self, size: int) -> None:
        self._state.set_rows([], size)
        self._state.upload_changes()

    def _compute(self, size: int) -> Tensor:
        state, rows = self._state, self._state.rows[:size]
        inputs = self._input_ids[:size], self._positions[:size]
        slot_mapping, seq_lens = self._slot_mapping[:size], self._seq_lens[:size]
        gather_inputs(
            rows=rows,
            last_tokens=state.last_tokens,
            lengths=state.lengths,
            block_tables=state.block_tables,
            block_size=self._block_size,
            input_ids=inputs[0],
            positions=inputs[1],
            slot_mapping=slot_mapping,
            seq_lens=seq_lens,
        )
        batch = GpuBatch(
            slot_mapping=slot_mapping,
            block_tables=state.block_tables,
            split=SequenceGroup(seq_lens, rows, None),
            split_query_len=1,
        )
        hidden = self._model.forward(*inputs, self._kv_caches, batch)
        logits = self._model.compute_logits(hidden)
        self._draw(logits, rows, self._token_ids[:size])
        return logits
