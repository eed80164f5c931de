"""CausalModel: what the runner needs of a decoder, whoever computes it."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from engine_service.layers.attention.backend import AttentionMetadata, CacheAllocator, KVCache
from engine_service.models.decoder_config import DecoderConfig


class CausalModel(Protocol):
    """Token ids to hidden states to logits."""

    @property
    def kernels(self) -> str:
        """Which compute it: cpu and gpu are our own, torch is torch alone."""

    @property
    def config(self) -> DecoderConfig:
        """The model's shape; of several ranks, that of the rank's part."""

    @property
    def backend(self) -> CacheAllocator:
        """Makes the KV cache of a layer."""

    @property
    def dtype(self) -> torch.dtype:
        """Of hidden states, logits and KV cache."""

    @property
    def device(self) -> torch.device:
        """Where weights and results are."""

    def __call__(
        self,
        input_ids: Tensor,
        positions: Tensor,
        kv_caches: Sequence[KVCache],
        metadata: AttentionMetadata,
        output_rows: Tensor | None = None,
    ) -> Tensor:
        """Token ids and positions [T] -> hidden states [T, hidden_size]; writes the tokens' KV.

        `output_rows`, ascending, are those whose hidden states are used; others may be anything.
        """

    def compute_logits(self, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
        """Hidden states as they come from a call, [T, hidden_size] -> [S, vocab_size].

        `rows` [S] are the rows to use, by default all. The next call may overwrite the result.
        """

    def argmax(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's maximum and the lowest token id that has it, [S] each.

        The logits may have been changed since compute_logits, also in type. The maximum of a row
        with NaN is NaN.
        """


def torch_argmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """See CausalModel.argmax."""
    return torch.max(logits, dim=-1)
