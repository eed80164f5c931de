"""DecodeGraphs: steps in which every sequence computes one token and draws one.

Inputs come from the state that stays on the device, and results go there. Padding rows have a state
of their own and change nothing.
"""

import torch
from torch import Tensor

from engine_service.kernels.gpu.state.sequence_states import gather_inputs
from engine_service.layers.attention.gpu_attention import BatchPart, GpuBatch
from engine_service.runner.gpu.step_graphs import StepGraphs


class DecodeGraphs(StepGraphs):
    """Sizes are numbers of rows."""

    kind = "decode"

    @staticmethod
    def sizes_up_to(max_size: int) -> list[int]:
        """See StepGraphs."""
        sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, max_size, 32)]
        return [*(size for size in sizes if size < max_size), max_size]

    def _allocate(self) -> None:
        def numbers(dtype: torch.dtype) -> Tensor:
            return torch.zeros(self._sizes[-1], dtype=dtype, device=self._model.device)

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
            split=BatchPart(seq_lens, rows, None),
            split_query_len=1,
        )
        hidden = self._model.forward(*inputs, self._kv_caches, batch)
        logits = self._model.compute_logits(hidden)
        self._draw(logits, rows, self._token_ids[:size])
        return logits
