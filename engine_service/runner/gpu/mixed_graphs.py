"""MixedGraphs: steps that compute several tokens of some sequences, as graphs of fixed size.

A step is padded to the next of some numbers of tokens. What it computes is told in one copy: tokens
with their positions and slots of the cache, and for two groups of sequences, those with one token
and those with more, where their tokens begin. Padding tokens belong to no sequence, write to the
spare block, and are not looked at.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from engine_service.core.outputs import ScheduledSequence
from engine_service.kernels.gpu.attention.extend_attention import query_block_bound
from engine_service.kernels.gpu.sampling.sampler import Workspace, draw
from engine_service.kernels.gpu.state import slots
from engine_service.layers.attention.backend import KVCache
from engine_service.layers.attention.gpu_attention import MAX_VERIFIED, GpuBatch, SequenceGroup
from engine_service.models.gpu_decoder import GpuDecoder
from engine_service.runner.device_copy import Uploads
from engine_service.runner.gpu.mixed_inputs import InputSizes, device_inputs, written_inputs
from engine_service.runner.gpu.slot_table import SlotTable

_TOKENS_OF_EXTENDING = 32
_FEWEST_EXTENDING = 8


def mixed_sizes(max_num_batched_tokens: int) -> list[int]:
    """Numbers of tokens that graphs are captured for."""
    sizes = [16, 32, 64, *range(128, 512, 64), *range(512, 1024, 128), *range(1024, 2048, 256)]
    sizes += [*range(2048, 4096, 512), *range(4096, max_num_batched_tokens, 1024)]
    return [*(size for size in sizes if size < max_num_batched_tokens), max_num_batched_tokens]


def most_extending(size: int) -> int:
    """Sequences with several tokens that a step of so many tokens may have."""
    return max(_FEWEST_EXTENDING, size // _TOKENS_OF_EXTENDING)


class MixedGraphs:
    """Owns the words and the graphs of steps of up to `max_num_batched_tokens` tokens."""

    def __init__(
        self,
        model: GpuDecoder,
        kv_caches: Sequence[KVCache],
        block_size: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        slot_table: SlotTable,
        workspace: Workspace,
    ) -> None:
        self._model, self._kv_caches, self._block_size = model, kv_caches, block_size
        self._max_num_seqs, self._slots, self._workspace = max_num_seqs, slot_table, workspace
        self._sizes = mixed_sizes(max_num_batched_tokens)
        num_words = sum(self._input_sizes(self._sizes[-1]).words())
        self._words = torch.zeros(num_words, dtype=torch.int32, device=model.device)
        self._uploads = Uploads(num_words, model.device)
        self._token_ids = torch.zeros(max_num_seqs, dtype=torch.int32, device=model.device)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def size_for(self, scheduled: Sequence[ScheduledSequence]) -> int | None:
        """The tokens of the step that computes these; None where none does."""
        num_tokens = sum(len(sequence.token_ids) for sequence in scheduled)
        num_extending = sum(len(sequence.token_ids) > 1 for sequence in scheduled)
        return next(
            (
                size
                for size in self._sizes
                if size >= num_tokens and most_extending(size) >= num_extending
            ),
            None,
        )

    def capture(self, show_progress: bool) -> None:
        """Captures every size, on a GPU; the largest first, whose memory the others share."""
        if self._model.device.type != "cuda":
            return
        pool = torch.cuda.graph_pool_handle()
        sizes = self._sizes[::-1]
        for size in tqdm(sizes, desc="Capturing steps", disable=not show_progress, leave=False):
            self._tell(size, (), ())
            self._compute(size)  # compiles the kernels
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                logits = self._compute(size)
            self._graphs[size] = graph, logits
        torch.cuda.synchronize(self._model.device)

    def run(
        self, size: int, scheduled: Sequence[ScheduledSequence], places: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """One step of sequences whose slots are `places`: token ids int32 [S], and their logits.

        Rows are the sequences that draw, in their order. Both are overwritten by the next step.
        """
        self._tell(size, scheduled, places)
        captured = self._graphs.get(size)
        if captured is None:
            return self._token_ids, self._compute(size)
        graph, logits = captured
        graph.replay()
        return self._token_ids, logits

    def _input_sizes(self, size: int) -> InputSizes:
        return InputSizes(size, self._max_num_seqs, most_extending(size))

    def _tell(
        self, size: int, scheduled: Sequence[ScheduledSequence], places: Sequence[int]
    ) -> None:
        table = self._slots
        words = written_inputs(
            scheduled,
            places,
            self._input_sizes(size),
            self._block_size,
            table.spare_block,
            table.num_slots,
        )
        self._words[: len(words)].copy_(self._uploads.send(words))

    def _compute(self, size: int) -> Tensor:
        inputs = device_inputs(self._words, self._input_sizes(size))
        table = self._slots
        pending = table.last_tokens[(-1 - inputs.input_ids).clamp_(min=0)]
        input_ids = torch.where(inputs.input_ids < 0, pending, inputs.input_ids)
        config, extending = self._model.config, most_extending(size)
        group = config.num_attention_heads // config.num_key_value_heads
        batch = GpuBatch(
            slot_mapping=inputs.slot_mapping,
            block_tables=table.block_tables,
            split=SequenceGroup(inputs.decode_lens, inputs.decode_slots, inputs.decode_starts),
            split_query_len=MAX_VERIFIED,
            extend=SequenceGroup(inputs.extend_lens, inputs.extend_slots, inputs.extend_starts),
            num_query_blocks=query_block_bound([size] + [0] * (extending - 1), group),
        )
        hidden = self._model.forward(input_ids, inputs.positions, self._kv_caches, batch)
        logits = self._model.compute_logits(hidden, inputs.sampled_rows)
        rows = inputs.drawing_slots
        draw(logits, rows, table.draw_params, self._workspace, self._token_ids)
        slots.advance(rows, self._token_ids, table.last_tokens, table.lengths, table.num_slots)
        return logits
