"""Paged attention equals plain attention over each sequence's own tokens."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from engine_service.core.outputs import ScheduledSequence
from engine_service.layers.attention import cpu_attention
from engine_service.layers.attention.backend import AttentionMetadata, KVCache
from engine_service.layers.attention.choice import choose_backend
from engine_service.layers.attention.cpu_attention import CpuAttention
from engine_service.layers.attention.torch_attention import TorchAttention
from engine_service.runner.input_batch import build_input_batch
from folovllm.errors import ConfigError
from folovllm.sampling_params import SamplingParams

CPU = torch.device("cpu")
NUM_BLOCKS = 64
HEAD_DIM = 8


class PagedCase:
    """Random sequences, what is cached of them in scattered blocks, and the step's tokens."""

    def __init__(
        self,
        lengths: Sequence[tuple[int, int]],
        *,
        heads: int = 4,
        kv_heads: int = 2,
        block_size: int = 4,
        dtype: torch.dtype = torch.float32,
        backend: TorchAttention | None = None,
    ) -> None:
        """`lengths` holds (num_computed_tokens, num_scheduled_tokens) of each sequence."""
        generator = torch.Generator().manual_seed(len(lengths))

        def random(tokens: int, heads: int) -> Tensor:
            return torch.randn(tokens, heads, HEAD_DIM, generator=generator).to(dtype)

        self.group = heads // kv_heads
        self.kv_heads = kv_heads
        totals = [computed + scheduled for computed, scheduled in lengths]
        free = np.random.default_rng(len(lengths)).permutation(NUM_BLOCKS).tolist()
        self.keys = [random(total, kv_heads) for total in totals]
        self.values = [random(total, kv_heads) for total in totals]
        self.queries = [random(scheduled, heads) for _, scheduled in lengths]
        self.scheduled = [
            ScheduledSequence(
                seq_id=row,
                token_ids=range(scheduled),
                num_computed_tokens=computed,
                block_table=[free.pop() for _ in range(-(-(computed + scheduled) // block_size))],
                sampling_params=SamplingParams(),
                seed=0,
                sample_indexes=(row,),
            )
            for row, (computed, scheduled) in enumerate(lengths)
        ]
        self.backend = backend or TorchAttention()
        self.cache = self.backend.allocate((NUM_BLOCKS, block_size, kv_heads, HEAD_DIM), dtype, CPU)
        for tensor in self.cache[:2]:
            tensor.fill_(float("nan"))
        batch = build_input_batch(self.scheduled, block_size, CPU)
        self.metadata: AttentionMetadata = batch.metadata
        self.order = batch.sampled
        self._fill_computed(block_size)

    def _fill_computed(self, block_size: int) -> None:
        for sequence, keys, values in zip(self.scheduled, self.keys, self.values, strict=True):
            for position in range(sequence.num_computed_tokens):
                block = sequence.block_table[position // block_size]
                self.cache.key[block, :, position % block_size] = keys[position]
                self.cache.value[block, :, position % block_size] = values[position]

    def run(self) -> list[Tensor]:
        """The backend's result for each sequence, in the order they were given."""
        starts = [sequence.num_computed_tokens for sequence in self.scheduled]
        query = torch.cat([self.queries[i] for i in self.order])
        key = torch.cat([self.keys[i][starts[i] :] for i in self.order])
        value = torch.cat([self.values[i][starts[i] :] for i in self.order])
        plan = self.backend.plan(self.metadata, self.kv_heads)
        self.backend.write(key, value, self.cache, plan)
        output = self.backend.forward(query, key, value, self.cache, plan)
        parts = output.split([len(self.queries[i]) for i in self.order])  # type: ignore[no-untyped-call]
        return [parts[self.order.index(i)] for i in range(len(self.scheduled))]

    def expected(self, row: int) -> Tensor:
        """Softmax over each query's own past, in float64."""
        query = self.queries[row].double()
        key = self.keys[row].double().repeat_interleave(self.group, dim=1)
        value = self.values[row].double().repeat_interleave(self.group, dim=1)
        total, tokens = len(key), len(query)
        scores = torch.einsum("qhd,khd->hqk", query, key) / HEAD_DIM**0.5
        future = torch.ones(total, total).triu(1).bool()[total - tokens :]
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        return torch.einsum("hqk,khd->qhd", weights, value)


CASES = {
    "one decode": [(6, 1)],
    "a first token alone": [(0, 1)],
    "decodes of one length": [(7, 1), (7, 1), (7, 1)],
    "decodes of many lengths": [(40, 1), (3, 1), (0, 1), (15, 1), (4, 1), (16, 1), (90, 1)],
    "a whole prompt": [(0, 9)],
    "a later chunk": [(10, 5)],
    "everything at once": [(0, 7), (12, 1), (8, 4), (0, 1), (3, 2), (5, 1), (0, 12)],
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("heads", [(4, 2), (2, 2), (6, 1)], ids=str)
@pytest.mark.parametrize("block_size", [1, 4, 16])
@pytest.mark.parametrize("backend", [TorchAttention(), CpuAttention()], ids=["torch", "cpu"])
def test_equals_plain_attention_with_nan_in_unused_slots(
    name: str, heads: tuple[int, int], block_size: int, backend: TorchAttention
) -> None:
    lengths = CASES[name]
    if block_size == 1 and sum(map(sum, lengths)) > NUM_BLOCKS:
        lengths = lengths[:4]
    case = PagedCase(
        lengths, heads=heads[0], kv_heads=heads[1], block_size=block_size, backend=backend
    )
    for row, result in enumerate(case.run()):
        torch.testing.assert_close(result.double(), case.expected(row), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", [TorchAttention(), CpuAttention()], ids=["torch", "cpu"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tile", [4, 128])
def test_bfloat16_is_as_close_as_its_rounding(
    name: str, tile: int, backend: TorchAttention, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_attention, "_QUERY_TILE", tile)
    case = PagedCase(CASES[name], dtype=torch.bfloat16, backend=backend)
    for row, result in enumerate(case.run()):
        torch.testing.assert_close(result.double(), case.expected(row), rtol=0.02, atol=0.02)


def test_writes_the_steps_slots_and_no_others() -> None:
    case = PagedCase([(3, 1), (0, 6)], block_size=4)
    before = [tensor.clone() for tensor in case.cache[:2]]
    case.run()
    slots = case.metadata.slot_mapping
    for tensor, old, source in zip(case.cache[:2], before, (case.keys, case.values), strict=True):
        written = tensor.transpose(1, 2).flatten(0, 1)
        step_tokens = torch.cat([source[0][3:], source[1]])
        torch.testing.assert_close(written[slots], step_tokens)
        untouched = torch.ones(len(written), dtype=torch.bool)
        untouched[slots] = False
        unwritten = old.transpose(1, 2).flatten(0, 1)
        torch.testing.assert_close(written[untouched], unwritten[untouched], equal_nan=True)


def test_long_and_short_decodes_are_not_padded_to_one_length() -> None:
    case = PagedCase([(120, 1), *[(5, 1)] * 8])
    plan = case.backend.plan(case.metadata, case.kv_heads)
    gathered_blocks = sum(group.cache_rows.numel() for group in plan.decodes) // case.kv_heads
    assert [(group.start, group.end) for group in plan.decodes] == [(0, 8), (8, 9)]
    assert gathered_blocks == 8 * 2 + 31


def test_on_a_cpu_padding_and_the_size_of_a_group_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_attention, "_MAX_KEYS", 80)
    monkeypatch.setattr(cpu_attention, "_MAX_PADDING", 20)
    lengths = [(2, 1), (3, 1), (4, 1), (11, 1), (11, 1), (11, 1), (11, 1), (99, 1), (0, 7)]
    case = PagedCase(lengths, backend=CpuAttention())
    plan = case.backend.plan(case.metadata, case.kv_heads)
    # Twice the keys, for the heads: 3 x 5, then 3 x 12 of one length, the next would be too many.
    assert [(group.start, group.end) for group in plan.decodes] == [(0, 3), (3, 6), (6, 7), (7, 8)]
    for row, result in enumerate(case.run()):
        torch.testing.assert_close(result.double(), case.expected(row), rtol=1e-5, atol=1e-6)


def test_the_cache_counts_blocks_first() -> None:
    cache = TorchAttention().allocate((5, 4, 2, 8), torch.bfloat16, CPU)
    assert isinstance(cache, KVCache) and cache.scales is None
    assert {tensor.shape[0] for tensor in cache[:2]} == {5}
    assert {tensor.dtype for tensor in cache[:2]} == {torch.bfloat16}


def test_choose_backend_refuses_an_unknown_device() -> None:
    assert isinstance(choose_backend(CPU), CpuAttention)
    assert type(choose_backend(torch.device("cuda"))) is TorchAttention
    with pytest.raises(ConfigError, match="no attention backend for device meta"):
        choose_backend(torch.device("meta"))
