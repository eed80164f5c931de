"""Which kernel computes which part of a batch, and what a GPU's cache is calibrated by."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from engine_service.core.outputs import ScheduledSequence
from engine_service.layers.attention import gpu_attention
from engine_service.layers.attention.backend import AttentionMetadata, KVCache
from engine_service.layers.attention.gpu_attention import (
    MAX_VERIFIED,
    GpuAttention,
    GpuBatch,
    gpu_batch,
)
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.gpu_decoder import GpuDecoder
from engine_service.models.loader import load_decoder
from engine_service.models.model_options import ModelOptions
from engine_service.runner.gpu.profile import calibrate
from engine_service.runner.input_batch import build_input_batch
from engine_service.runner.kv_cache import allocate_kv_caches
from folovllm.sampling_params import SamplingParams
from support.builders.tiny_models import make_checkpoint
from support.twins.decoder_logits import our_logits, prompt, reference_logits, relative_error
from support.twins.gpu_twins import DEVICE, assert_near
from support.twins.paged_batch import PagedBatch, paged_batch

FP8 = torch.float8_e4m3fn
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16


def as_gpu_batch(batch: PagedBatch) -> GpuBatch:
    starts = batch.query_start_loc.tolist()
    lengths = [end - start for start, end in zip(starts, starts[1:], strict=False)]
    num_decodes = sum(length == 1 for length in lengths)
    return gpu_batch(
        AttentionMetadata(
            num_decodes=num_decodes,
            query_start_loc=tuple(starts),
            seq_lens=tuple(batch.seq_lens.tolist()),
            seq_lens_tensor=batch.seq_lens,
            block_tables=batch.block_tables[batch.table_rows.long()],
            slot_mapping=torch.empty(0),
            block_size=16,
        ),
        HEADS,
        KV_HEADS,
    )


@pytest.mark.parametrize(
    ("query_lens", "kernels"),
    [
        ([1] * 5, ["decode"]),
        ([1, MAX_VERIFIED, 2], ["decode"]),
        ([1, MAX_VERIFIED + 1, 2], ["decode", "extend"]),
        ([9, 2, 3], ["extend"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("reserved", [1, 8])
def test_all_kinds_of_batches(
    query_lens: Sequence[int], kernels: list[str], reserved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More sequences than room was reserved for get what they need."""
    launched = []
    for name in ("decode", "extend"):
        kernel = getattr(gpu_attention, f"{name}_attention")

        def launch(name: str, kernel: Any, *arguments: object, **named: object) -> None:
            launched.append(name)
            kernel(*arguments, **named)

        monkeypatch.setattr(gpu_attention, f"{name}_attention", partial(launch, name, kernel))
    paged = paged_batch([40, 33, 21, 9, 60][: len(query_lens)], query_lens, torch.float32)
    batch = as_gpu_batch(paged)
    attention = GpuAttention(HEADS, KV_HEADS, HEAD_DIM, DEVICE)
    attention.reserve(reserved)
    attention.plan(batch)
    found = attention.forward(paged.query, KVCache(*paged.cache), batch)
    assert_near(found, paged.expected(), torch.float32)
    assert launched == kernels


def test_a_cache_of_8_bits_has_scales_of_1() -> None:
    attention = GpuAttention(HEADS, KV_HEADS, HEAD_DIM, DEVICE)
    wide, narrow = (
        attention.allocate((3, 16, KV_HEADS, HEAD_DIM), dtype, DEVICE)
        for dtype in (torch.bfloat16, FP8)
    )
    assert wide.scales is None and wide.key.dtype == torch.bfloat16
    assert narrow.scales is not None and narrow.value.dtype == FP8
    assert narrow.scales.tolist() == [[1.0] * KV_HEADS] * 2
    for tensor in (*wide[:2], *narrow[:2]):
        assert tensor.shape == (3, 16, KV_HEADS, HEAD_DIM)
        assert tensor[1, :, 1].is_contiguous()  # the block of one head lies in one piece


def make_model(folder: Path) -> GpuDecoder:
    config = DecoderConfig.from_folder(make_checkpoint("qwen3_one_layer", folder, seed=1))
    return GpuDecoder(
        load_decoder(folder, config, ModelOptions(torch.float32, DEVICE, deterministic=True)), 512
    )


def test_scales_fit_what_the_model_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits from a calibrated cache are near the exact ones, and scales are the heads' own."""
    monkeypatch.setattr("engine_service.runner.gpu.profile._CALIBRATION_TOKENS", 48)
    model = make_model(tmp_path)
    caches = allocate_kv_caches(model, 40, 16, FP8)
    calibrate(model, caches, 512, 16)
    (scales,) = (cache.scales for cache in caches)
    assert scales is not None and bool((scales > 0).all())
    assert len(set(scales.flatten().tolist())) == scales.numel()
    token_ids = prompt(20, seed=5)
    expected = reference_logits(tmp_path, token_ids, torch.float32)

    def take(*_: object) -> list[KVCache]:
        return [KVCache(c.key.zero_(), c.value.zero_(), c.scales) for c in caches]

    monkeypatch.setattr("support.twins.decoder_logits.allocate_kv_caches", take)
    error = relative_error(our_logits(model, token_ids, [19, 1]).cpu(), expected)
    assert 1e-4 < error < 0.1


def test_the_batch_as_kernels_take_it() -> None:
    def part(tokens: int, computed: int, blocks: Sequence[int]) -> ScheduledSequence:
        return ScheduledSequence(
            0, range(tokens), computed, blocks, SamplingParams(), 0, sample_indexes=(0,)
        )

    for scheduled, max_query_len in (
        ([part(1, 20, [4, 5]), part(1, 3, [6])], 1),
        ([part(7, 0, [1])], 7),
    ):
        metadata = build_input_batch(scheduled, 16, DEVICE).metadata
        batch = gpu_batch(metadata, HEADS, KV_HEADS)
        group = batch.split
        assert group is not None and batch.extend is None and batch.num_query_blocks == 0
        assert group.seq_lens.tolist() == list(metadata.seq_lens)
        assert group.table_rows.tolist() == list(range(len(scheduled)))
        kinds = {group.seq_lens.dtype, batch.block_tables.dtype, group.table_rows.dtype}
        assert kinds == {torch.int32}
        assert batch.decodes == (max_query_len == 1)
        if max_query_len == 1:
            assert group.query_start_loc is None
        else:
            assert group.query_start_loc is not None
            assert group.query_start_loc.tolist() == [0, 7]
