"""GpuModelRunner: launches scheduled steps on a GPU; their tokens are read once they are drawn.

A step in which every sequence computes one token and draws one is replayed from a graph, on state
that stays on the device; one with prompts from a graph of another kind, if that suffices. Any other
is launched kernel by kernel. Each leaves the state as if it had been a decode step for the
sequences that will decode next.
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
from engine_service.kernels.gpu.state import sequence_states
from engine_service.models.gpu_decoder import GpuDecoder
from engine_service.runner.device_copy import Download, Downloads, to_device
from engine_service.runner.gpu.decode_graphs import DecodeGraphs
from engine_service.runner.gpu.device_state import DeviceState
from engine_service.runner.gpu.drawing import Draw, change_logits, draw_all
from engine_service.runner.gpu.drawn_logprobs import drawn_logprobs, raw_logits
from engine_service.runner.gpu.mixed_graphs import MixedGraphs
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
        """The cache is of the model's type if no other is given."""
        self.model = model
        self._block_size = block_size
        self.kv_caches = allocate_kv_caches(model, num_blocks + 1, block_size, cache_dtype)
        self._grammar_masks = GrammarMasks(model.config.vocab_size)
        width = -(-max_model_len // block_size)
        self._state = DeviceState(max_num_seqs, width, max_num_seqs, num_blocks, model.device)
        self._workspace = sampling.make_workspace(
            max_num_seqs, model.config.vocab_size, model.device
        )
        self._downloads = Downloads(max_num_seqs, model.device)
        model.backend.reserve(max_num_seqs)
        shared = model, self.kv_caches, block_size, self._state, self._workspace
        self.graphs = DecodeGraphs(*shared, max_num_seqs)
        self.mixed_graphs = MixedGraphs(*shared, max_num_batched_tokens)

    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        """See ModelRunner."""
        return self.launch(output).result()

    @torch.inference_mode()
    def launch(self, output: SchedulerOutput) -> GpuStep:
        """See OverlappingRunner.

        Waits for the step if it has to find log-probabilities, or to change logits in another way
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
        """Seconds on the device of a decode step like the latest, of `num_rows` rows.

        For measuring: it overwrites what the KV cache holds after the ends of sequences in flight.
        """
        words = self._state.words
        before = words.clone()
        size = self.graphs.size_for(num_rows)
        start = events.record(timing=True)
        for _ in range(num_steps):
            self.graphs.run(size)
        end = events.record(timing=True)
        words.copy_(before)
        return events.seconds(start, end) / num_steps

    def _launch_decode(self, scheduled: Sequence[ScheduledSequence]) -> GpuStep:
        state_indexes = self._assign_states(scheduled)
        size = self.graphs.size_for(len(scheduled))
        self._state.set_rows(state_indexes, size)
        self._state.upload_changes()
        token_ids, logits = self.graphs.run(size)
        drawing = range(len(scheduled))
        return self._finish(scheduled, drawing, state_indexes, token_ids, logits)

    def _launch_mixed(self, scheduled: Sequence[ScheduledSequence], size: int) -> GpuStep:
        state_indexes = self._assign_states(scheduled)
        self._state.upload_changes()
        token_ids, logits = self.mixed_graphs.run(size, scheduled, state_indexes)
        drawing = [i for i, sequence in enumerate(scheduled) if sequence.sample_indexes]
        return self._finish(scheduled, drawing, state_indexes, token_ids, logits)

    def _assign_states(self, scheduled: Sequence[ScheduledSequence]) -> list[int]:
        seq_ids = frozenset(sequence.seq_id for sequence in scheduled)
        return [self._state.assign(sequence, seq_ids) for sequence in scheduled]

    def _finish(
        self,
        scheduled: Sequence[ScheduledSequence],
        drawing: Sequence[int],
        state_indexes: Sequence[int],
        token_ids: Tensor,
        logits: Tensor,
    ) -> GpuStep:
        """Does what a graph has left to do; sequences `drawing` have drawn a token each."""
        for i in drawing:
            self._state.advance(scheduled[i])
        token_ids = token_ids[: len(drawing)]
        draws = [Draw(scheduled[i], scheduled[i].sample_indexes[0]) for i in drawing]
        raw = raw_logits(logits, draws)
        redrawn, errors = self._draw_altered(logits, draws, token_ids)
        if redrawn:
            changed = self._indexes([state_indexes[drawing[row]] for row in redrawn])
            # -1 is a failed draw, see `sequence_states`.
            self._state.last_tokens[changed] = token_ids[self._indexes(redrawn)].clamp_(min=0)
        logprobs, failures = drawn_logprobs(raw, draws, drawing, token_ids)
        tokens = self._downloads.start(token_ids)
        failures |= {drawing[row]: error for row, error in errors.items()}
        return GpuStep(scheduled, drawing, tokens, logprobs, {}, failures)

    def _launch_any(self, scheduled: Sequence[ScheduledSequence]) -> GpuStep:
        if not scheduled:
            return GpuStep((), (), self._download_none(), {}, {}, {})
        batch = build_input_batch(scheduled, self._block_size, self.model.device)
        self._resolve_pending(batch, scheduled)
        hidden = self.model(batch.input_ids, batch.positions, self.kv_caches, batch.metadata)
        prompt, failures = prompt_logprobs(self.model, hidden, batch.first_rows, scheduled)
        drawing, rows, draws = _draws(batch.sampled, scheduled)
        if not draws:
            return GpuStep(scheduled, (), self._download_none(), {}, prompt, failures)
        sampled_rows = batch.sampled_rows
        if len(draws) > len(sampled_rows):
            sampled_rows = sampled_rows[self._indexes(rows)]
        logits = self.model.compute_logits(hidden, sampled_rows)
        token_ids = draw_all(logits, draws, self._workspace)
        raw = raw_logits(logits, draws)
        _, errors = self._draw_altered(logits, draws, token_ids)
        failures |= {drawing[row]: error for row, error in errors.items()}
        self._append(scheduled, drawing, token_ids)
        logprobs, failed = drawn_logprobs(raw, draws, drawing, token_ids)
        tokens = self._downloads.start(token_ids)
        return GpuStep(scheduled, drawing, tokens, logprobs, prompt, failures | failed)

    def _download_none(self) -> Download:
        return self._downloads.start(torch.empty(0, dtype=torch.int32, device=self.model.device))

    def _indexes(self, numbers: Sequence[int]) -> Tensor:
        return to_device(np.array(numbers, dtype=np.int64), self.model.device)

    def _resolve_pending(self, batch: InputBatch, scheduled: Sequence[ScheduledSequence]) -> None:
        """Puts tokens that only the device knows among the inputs."""
        pending = [
            (row, self._state.index_of(sequence.seq_id))
            for row, sequence in zip(batch.first_rows, scheduled, strict=True)
            if sequence.token_ids[0] == PENDING_TOKEN
        ]
        if pending:
            rows, state_indexes = zip(*pending, strict=True)
            tokens = self._state.last_tokens[self._indexes(state_indexes)]
            batch.input_ids[self._indexes(rows)] = tokens.long()

    def _draw_altered(
        self, logits: Tensor, draws: Sequence[Draw], token_ids: Tensor
    ) -> tuple[list[int], dict[int, Exception]]:
        """Repeats the draws that alter the logits, from altered ones.

        Returns their rows, and the errors that rows raise by themselves.
        """
        rows = [row for row, each in enumerate(draws) if each.alters_logits]
        failures: dict[int, Exception] = {}
        try:
            self._redraw(logits, rows, draws, token_ids)
        except Exception:
            for row in rows:
                try:
                    self._redraw(logits, [row], draws, token_ids)
                except Exception as error:
                    failures[row] = error
        return rows, failures

    def _redraw(
        self, logits: Tensor, rows: Sequence[int], draws: Sequence[Draw], token_ids: Tensor
    ) -> None:
        if rows:
            redrawn = [draws[row] for row in rows]
            changed = change_logits(logits, rows, redrawn, self._grammar_masks)
            token_ids[self._indexes(rows)] = draw_all(changed, redrawn, self._workspace)

    def _append(
        self, scheduled: Sequence[ScheduledSequence], drawing: Sequence[int], token_ids: Tensor
    ) -> None:
        """Appends each token to the state of the sequence `drawing` it.

        Not for a sequence with several draws: which of them is its next token is not known yet.
        """
        seq_ids = frozenset(sequence.seq_id for sequence in scheduled)
        rows = [self._state.num_states] * len(drawing)
        certain = []
        for row, i in enumerate(drawing):
            sequence = scheduled[i]
            if len(sequence.sample_indexes) == 1 and not sequence.draft_token_ids:
                rows[row] = self._state.assign(sequence, seq_ids)
                certain.append(sequence)
        self._state.upload_changes()
        for sequence in certain:
            self._state.advance(sequence)
        sequence_states.advance(
            to_device(np.array(rows, dtype=np.int32), self.model.device),
            token_ids,
            self._state.last_tokens,
            self._state.lengths,
            self._state.num_states,
        )


def _decodes(sequence: ScheduledSequence) -> bool:
    """Whether a plain sequence computes one token and draws one."""
    return len(sequence.token_ids) == 1 and bool(sequence.sample_indexes)


def _is_plain(sequence: ScheduledSequence) -> bool:
    """Whether a graph does everything that a sequence needs."""
    return (
        len(sequence.sample_indexes) <= 1
        and not sequence.draft_token_ids
        and not sequence.prompt_logprob_positions
    )


def _draws(
    sampled: Sequence[int], scheduled: Sequence[ScheduledSequence]
) -> tuple[list[int], list[int], list[Draw]]:
    """All draws of a step: the index of each one's sequence, and its row of `sampled_rows`."""
    positions = [(i, sequence) for i in sampled for sequence in scheduled[i].draws()]
    drawing, rows, draws = [], [], []
    for row, (i, sequence) in enumerate(positions):
        for index in sequence.sample_indexes:
            drawing.append(i)
            rows.append(row)
            draws.append(Draw(sequence, index))
    return drawing, rows, draws
