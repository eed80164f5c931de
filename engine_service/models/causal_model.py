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
        """Whose compute it: cpu and gpu are our own, torch is torch alone."""

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
        """Where all of it is."""

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

        `rows` [S] says which, else they are all. The result may be overwritten by the next call.
        """

    def argmax(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's maximum and the lowest token id that has it, [S] each.

        Of logits as compute_logits gives them, or changed and of another type. A row with NaN has
        the maximum NaN.
        """
