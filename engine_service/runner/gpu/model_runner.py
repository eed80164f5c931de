"""GpuModelRunner: launches scheduled steps on a GPU; their tokens are read when they are there.

A step in which every sequence computes one token and draws one is replayed from a graph, on state
that stays on the device; one with prompts in it from a graph of another kind, where it asks for no
more than that holds. Any other is launched kernel by kernel. Each leaves the state as if it had
been a decode step for the sequences that will decode next.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine_service.core.outputs import (
    PENDING_TOKEN,
    ModelRunnerOutput,
    ScheduledSequence,
    SchedulerOutput,
)
from engine_service.kernels.gpu import events
from engine_service.kernels.gpu.sampling import sampler as sampling
from engine_service.kernels.gpu.state import slots
from engine_service.layers.attention.gpu_attention import gpu_batch
from engine_service.models.gpu_decoder import GpuDecoder
from engine_service.runner.device_copy import Reading, Readings, Uploads, to_device
from engine_service.runner.gpu.decode_graphs import DecodeGraphs
from engine_service.runner.gpu.drawing import Draw, change_logits, draw_all
from engine_service.runner.gpu.drawn_logprobs import drawn_logprobs, raw_logits
from engine_service.runner.gpu.mixed_graphs import MixedGraphs
from engine_service.runner.gpu.slot_table import SlotTable
from engine_service.runner.gpu.step import GpuStep
from engine_service.runner.input_batch import InputBatch, build_input_batch
from engine_service.runner.kv_cache import allocate_kv_caches, copy_blocks
from engine_service.runner.sampling.grammar_masks import GrammarMasks
from engine_service.runner.sampling.prompt_logprobs import prompt_logprobs


class GpuModelRunner:
    """An OverlappingRunner; owns its KV pool of `num_blocks` blocks, and one for padding.

    All calls must come from one thread at a time.
    """

    def __init__(
        self,
        model: GpuDecoder,
        num_blocks: int,
        block_size: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        cache_dtype: torch.dtype | None = None,
    ) -> None:
        """The cache is of the model's type where no other is given."""
        self.model = model
        self._block_size = block_size
        self.kv_caches = allocate_kv_caches(model, num_blocks + 1, block_size, cache_dtype)
        self._grammar_masks = GrammarMasks(model.config.vocab_size)
        width = -(-max_model_len // block_size)
        self._slots = SlotTable(max_num_seqs, width, max_num_seqs, num_blocks, model.device)
        self._workspace = sampling.make_workspace(
            max_num_seqs, model.config.vocab_size, model.device
        )
        # Twice all words, for each has a place and a value.
        self._uploads = Uploads(2 * len(self._slots.words), model.device)
        self._readings = Readings(max_num_seqs, model.device)
        model.backend.reserve(max_num_seqs)
        self.graphs = DecodeGraphs(
            model, self.kv_caches, block_size, max_num_seqs, self._slots, self._workspace
        )
        self.mixed_graphs = MixedGraphs(
            model,
            self.kv_caches,
            block_size,
            max_num_seqs,
            max_num_batched_tokens,
            self._slots,
            self._workspace,
        )

    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        """See ModelRunner."""
        return self.launch(output).result()

    @torch.inference_mode()
    def launch(self, output: SchedulerOutput) -> GpuStep:
        """See OverlappingRunner.

        Waits for the step where it has log-probabilities to find, or logits to change otherwise
        than by a grammar.
        """
        copy_blocks(self.kv_caches, output.block_copies)
        scheduled = output.scheduled
        if scheduled and all(map(_is_plain, scheduled)):
            if all(map(_decodes, scheduled)):
                return self._launch_decode(scheduled)
            size = self.mixed_graphs.size_for(scheduled)
            if size is not None:
                return self._launch_mixed(scheduled, size)
        return self._launch_any(scheduled)

    def replay_time(self, num_rows: int, num_steps: int) -> float:
        """Seconds on the device of a decode step like the latest, of so many rows, without a host.

        For measuring: what the sequences in flight hold is no longer right then, as far as it lies
        behind their ends.
        """
        words = self._slots.words
        before = words.clone()
        size = self.graphs.size_for(num_rows)
        start = events.record(timing=True)
        for _ in range(num_steps):
            self.graphs.run(size)
        end = events.record(timing=True)
        words.copy_(before)
        return events.seconds(start, end) / num_steps

    def _launch_decode(self, scheduled: Sequence[ScheduledSequence]) -> GpuStep:
        seq_ids = frozenset(sequence.seq_id for sequence in scheduled)
        places = [self._slots.place(sequence, seq_ids) for sequence in scheduled]
        size = self.graphs.size_for(len(scheduled))
        self._slots.set_rows(places, size)
        self._tell()
        token_ids, logits = self.graphs.run(size)
        return self._finish(scheduled, range(len(scheduled)), places, token_ids, logits)

    def _launch_mixed(self, scheduled: Sequence[ScheduledSequence], size: int) -> GpuStep:
        seq_ids = frozenset(sequence.seq_id for sequence in scheduled)
        places = [self._slots.place(sequence, seq_ids) for sequence in scheduled]
        self._tell()
        token_ids, logits = self.mixed_graphs.run(size, scheduled, places)
        drawing = [i for i, sequence in enumerate(scheduled) if sequence.sample_indexes]
        return self._finish(scheduled, drawing, places, token_ids, logits)

    def _finish(
        self,
        scheduled: Sequence[ScheduledSequence],
        drawing: Sequence[int],
        places: Sequence[int],
        token_ids: Tensor,
        logits: Tensor,
    ) -> GpuStep:
        """What a graph has left to do, where these of the sequences have drawn a token each."""
        for i in drawing:
            self._slots.advance(scheduled[i])
        token_ids = token_ids[: len(drawing)]
        draws = [Draw(scheduled[i], scheduled[i].sample_indexes[0]) for i in drawing]
        raw = raw_logits(logits, draws)
        special = self._draw_special(logits, draws, token_ids)
        if special:
            slots_changed = self._indexes([places[drawing[row]] for row in special])
            self._slots.last_tokens[slots_changed] = token_ids[self._indexes(special)]
        logprobs = drawn_logprobs(raw, draws, drawing, token_ids)
        return GpuStep(scheduled, drawing, self._readings.read(token_ids), logprobs, {})

    def _launch_any(self, scheduled: Sequence[ScheduledSequence]) -> GpuStep:
        if not scheduled:
            return GpuStep((), (), self._nothing(), {}, {})
        batch = build_input_batch(scheduled, self._block_size, self.model.device)
        self._resolve_pending(batch, scheduled)
        config = self.model.config
        hidden = self.model.forward(
            batch.input_ids,
            batch.positions,
            self.kv_caches,
            gpu_batch(batch.metadata, config.num_attention_heads, config.num_key_value_heads),
        )
        prompt = prompt_logprobs(self.model, hidden, batch.first_rows, scheduled)
        places, rows, draws = _draws(batch.sampled, scheduled)
        if not draws:
            return GpuStep(scheduled, (), self._nothing(), {}, prompt)
        wanted = batch.sampled_rows
        if len(draws) > len(wanted):
            wanted = wanted[self._indexes(rows)]
        logits = self.model.compute_logits(hidden, wanted)
        token_ids = draw_all(logits, draws, self._workspace)
        raw = raw_logits(logits, draws)
        self._draw_special(logits, draws, token_ids)
        self._append(scheduled, places, draws, token_ids)
        logprobs = drawn_logprobs(raw, draws, places, token_ids)
        return GpuStep(scheduled, places, self._readings.read(token_ids), logprobs, prompt)

    def _nothing(self) -> Reading:
        return self._readings.read(torch.empty(0, dtype=torch.int32, device=self.model.device))

    def _tell(self) -> None:
        changes = self._slots.take_changes()
        if changes is not None:
            on_device = self._uploads.send(changes.reshape(-1)).view(2, -1)
            slots.set_words(self._slots.words, on_device)

    def _indexes(self, numbers: Sequence[int]) -> Tensor:
        return to_device(np.array(numbers, dtype=np.int64), self.model.device)

    def _resolve_pending(self, batch: InputBatch, scheduled: Sequence[ScheduledSequence]) -> None:
        """Puts tokens that only the device knows among the inputs."""
        pending = [
            (batch.first_rows[place], self._slots.slot_of(sequence.seq_id))
            for place, sequence in enumerate(scheduled)
            if sequence.token_ids[0] == PENDING_TOKEN
        ]
        if pending:
            rows, places = zip(*pending, strict=True)
            tokens = self._slots.last_tokens[self._indexes(places)]
            batch.input_ids[self._indexes(rows)] = tokens.long()

    def _draw_special(self, logits: Tensor, draws: Sequence[Draw], token_ids: Tensor) -> list[int]:
        """Draws the special ones again, from changed logits; returns their rows."""
        rows = [row for row, each in enumerate(draws) if each.is_special]
        if rows:
            special = [draws[row] for row in rows]
            changed = change_logits(logits, rows, special, self._grammar_masks)
            token_ids[self._indexes(rows)] = draw_all(changed, special, self._workspace)
        return rows

    def _append(
        self,
        scheduled: Sequence[ScheduledSequence],
        places: Sequence[int],
        draws: Sequence[Draw],
        token_ids: Tensor,
    ) -> None:
        """Makes drawn tokens the latest of their sequences' slots.

        Of a sequence with several draws it is not known yet which of them is its next token.
        """
        seq_ids = frozenset(sequence.seq_id for sequence in scheduled)
        rows = [self._slots.num_slots] * len(draws)
        for row, place in enumerate(places):
            sequence = scheduled[place]
            if _draws_one(sequence):
                rows[row] = self._slots.place(sequence, seq_ids)
        self._tell()
        for row, place in enumerate(places):
            if rows[row] != self._slots.num_slots:
                self._slots.advance(scheduled[place])
        slots.advance(
            to_device(np.array(rows, dtype=np.int32), self.model.device),
            token_ids,
            self._slots.last_tokens,
            self._slots.lengths,
            self._slots.num_slots,
        )


def _decodes(sequence: ScheduledSequence) -> bool:
    """Whether a plain sequence computes one token and draws one."""
    return len(sequence.token_ids) == 1 and bool(sequence.sample_indexes)


def _is_plain(sequence: ScheduledSequence) -> bool:
    """Whether a graph does all that is asked of a sequence."""
    return (
        len(sequence.sample_indexes) <= 1
        and not sequence.draft_token_ids
        and not sequence.prompt_logprob_positions
    )


def _draws_one(sequence: ScheduledSequence) -> bool:
    return len(sequence.sample_indexes) == 1 and not sequence.draft_token_ids


def _draws(
    sampled: Sequence[int], scheduled: Sequence[ScheduledSequence]
) -> tuple[list[int], list[int], list[Draw]]:
    """All draws of a step: the place of each one's sequence, and its row of `sampled_rows`."""
    found = [
        (place, sequence, index)
        for place in sampled
        for sequence in scheduled[place].draws()
        for index in sequence.sample_indexes
    ]
    rows, row, before = [], -1, None
    for _, sequence, _ in found:
        row += sequence is not before
        before = sequence
        rows.append(row)
    return (
        [place for place, *_ in found],
        rows,
        [Draw(sequence, index) for _, sequence, index in found],
    )
