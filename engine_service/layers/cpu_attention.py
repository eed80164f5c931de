"""Paged attention in plain torch, with the decodes of a step cut up as suits a CPU."""

from engine_service.layers.attention import AttentionMetadata
from engine_service.layers.torch_attention import TorchAttention

# Keys of all heads that a group gathers: the copies of keys and values stay in the processor's
# cache, and in memory that the allocator has at hand. Large ones come from the system page by page.
_MOST_KEYS = 8192
# Keys of all heads that a group computes for nothing: about what one more group costs.
_MOST_PADDING = 4096


class CpuAttention(TorchAttention):
    """The AttentionBackend whose decodes cost what their keys cost, however ragged they are."""

    def group_borders(self, metadata: AttentionMetadata, num_kv_heads: int) -> list[int]:
        """See TorchAttention. A group has one sequence, or few keys and little padding."""
        borders, keys = [0], 0
        for row, seq_len in enumerate(metadata.seq_lens[: metadata.num_decodes]):
            padded = (row + 1 - borders[-1]) * seq_len * num_kv_heads
            keys += seq_len * num_kv_heads
            if padded > _MOST_KEYS or padded - keys > _MOST_PADDING:
                if row > borders[-1]:
                    borders.append(row)
                keys = seq_len * num_kv_heads
        return [*borders, metadata.num_decodes] if metadata.num_decodes else []
