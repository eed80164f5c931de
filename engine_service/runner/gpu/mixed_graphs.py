"""MixedGraphs: steps that compute several tokens of some sequences.

One copy uploads a step's inputs: tokens with their positions and KV slots, and where the tokens of
each sequence begin, in two groups: sequences with one token, and with more. Padding tokens belong
to no sequence, write to the spare block, and are ignored.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine_service.core.outputs import ScheduledSequence
from engine_service.kernels.gpu.attention.extend_attention import query_block_bound
from engine_service.layers.attention.gpu_attention import MAX_VERIFIED, BatchPart, GpuBatch
from engine_service.runner.device_copy import Uploads
from engine_service.runner.gpu.mixed_inputs import InputSizes, device_inputs, written_inputs
from engine_service.runner.gpu.step_graphs import StepGraphs

_TOKENS_OF_EXTENDING = 32
_MIN_EXTENDING = 8


def max_extending(size: int) -> int:
    """How many sequences with several tokens a step of `size` tokens may have."""
    return max(_MIN_EXTENDING, size // _TOKENS_OF_EXTENDING)


class MixedGraphs(StepGraphs):
    """Sizes are numbers of tokens."""

    kind = "mixed"

    @staticmethod
    def sizes_up_to(max_size: int) -> list[int]:
        """See StepGraphs."""
        sizes = [16, 32, 64, *range(128, 512, 64), *range(512, 1024, 128), *range(1024, 2048, 256)]
        sizes += [*range(2048, 4096, 512), *range(4096, max_size, 1024)]
        return [*(size for size in sizes if size < max_size), max_size]

    def _allocate(self) -> None:
        num_words = sum(self._input_sizes(self._sizes[-1]).words())
        self._words = self._state.words.new_zeros(num_words)
        self._uploads = Uploads(num_words, self._words.device)
        self._token_ids = torch.zeros_like(self._state.rows)

    def size_for(self, scheduled: Sequence[ScheduledSequence]) -> int | None:
        """The tokens of the step that computes these; None if none is large enough."""
        num_tokens = sum(len(sequence.token_ids) for sequence in scheduled)
        num_extending = sum(len(sequence.token_ids) > 1 for sequence in scheduled)
        for size in self._sizes:
            if size >= num_tokens and max_extending(size) >= num_extending:
                return size
        return None

    def run(
        self, size: int, scheduled: Sequence[ScheduledSequence], state_indexes: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """One step of sequences with these states: token ids int32 [S], and their logits.

        Rows are the sequences that draw, in their order. The next step overwrites both.
        """
        self._upload(size, scheduled, state_indexes)
        logits = self._replay(size)
        return self._token_ids, logits

    def _input_sizes(self, size: int) -> InputSizes:
        return InputSizes(size, len(self._state.rows), max_extending(size))

    def _upload_padding(self, size: int) -> None:
        self._upload(size, (), ())

    def _upload(
        self, size: int, scheduled: Sequence[ScheduledSequence], state_indexes: Sequence[int]
    ) -> None:
        words = written_inputs(
            scheduled,
            state_indexes,
            self._input_sizes(size),
            self._block_size,
            self._state.spare_block,
            self._state.num_states,
        )
        self._words[: len(words)].copy_(self._uploads.send(words))

    def _compute(self, size: int) -> Tensor:
        inputs, state = device_inputs(self._words, self._input_sizes(size)), self._state
        pending = state.last_tokens[(-1 - inputs.input_ids).clamp_(min=0)]
        input_ids = torch.where(inputs.input_ids < 0, pending, inputs.input_ids)
        config, num_extending = self._model.config, max_extending(size)
        group = config.num_attention_heads // config.num_key_value_heads
        batch = GpuBatch(
            slot_mapping=inputs.slot_mapping,
            block_tables=state.block_tables,
            split=BatchPart(inputs.decode_lens, inputs.decode_states, inputs.decode_starts),
            split_query_len=MAX_VERIFIED,
            extend=BatchPart(inputs.extend_lens, inputs.extend_states, inputs.extend_starts),
            num_query_blocks=query_block_bound([size] + [0] * (num_extending - 1), group),
        )
        hidden = self._model.forward(input_ids, inputs.positions, self._kv_caches, batch)
        logits = self._model.compute_logits(hidden, inputs.sampled_rows)
        self._draw(logits, inputs.sampled_states, self._token_ids)
        return logits
