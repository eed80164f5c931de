"""What ranks exchange, and a decoder of several ranks against one of a single rank."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine_service.layers.embedding import embed, gather_logits
from engine_service.layers.parallel import SINGLE, TensorParallel
from engine_service.models.causal_model import CausalModel
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.layer_plan import Cut
from engine_service.models.loader import load_decoder, load_model
from engine_service.models.model_options import ModelOptions
from engine_service.models.torch_decoder import TorchDecoder
from folovllm.errors import ConfigError
from support.builders.tiny_models import KERNEL_MODELS, TINY_MODELS, make_checkpoint
from support.processes.rank_threads import on_ranks
from support.twins.decoder_logits import our_logits, prompt

CPU = torch.device("cpu")
RANK_OF_8 = TensorParallel(1, 8)
# The vocabulary of "qwen3_sharded" is odd, and its weights are in several files.
MODELS = [name for name in (*TINY_MODELS, "qwen3_sharded") if name != "llama_biases"]


def logits_of(model: CausalModel) -> Tensor:
    """Of a prompt in chunks, the last of one token."""
    return our_logits(model, prompt(40, seed=1), [30, 9, 1])


@pytest.mark.parametrize(
    ("total", "size", "spans"),
    [
        (12, 1, [(0, 12)]),
        (12, 3, [(0, 4), (4, 8), (8, 12)]),
        (11, 3, [(0, 4), (4, 8), (8, 11)]),
        (5, 4, [(0, 2), (2, 4), (4, 5), (5, 5)]),
    ],
)
def test_spans_cover_all_in_order(total: int, size: int, spans: list[tuple[int, int]]) -> None:
    assert [TensorParallel(rank, size).span(total) for rank in range(size)] == spans
    assert TensorParallel(0, size).shard_size(total) == max(end - start for start, end in spans)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [2, 3])
def test_every_rank_gets_the_same_of_all(size: int, dtype: torch.dtype) -> None:
    def exchange(parallel: TensorParallel) -> tuple[Tensor, Tensor, Tensor, int]:
        own = torch.arange(6, dtype=dtype).view(2, 3) + 10 * parallel.rank
        gathered = parallel.all_gather(own)
        total = parallel.all_reduce(own)
        return own, total, gathered, parallel.all_reduce_min(7 - parallel.rank)

    base = torch.arange(6, dtype=dtype).view(2, 3)
    for own, total, gathered, minimum in on_ranks(size, exchange):
        assert own is total
        assert torch.equal(total, size * base + 10 * sum(range(size)))
        assert torch.equal(gathered, torch.stack([base + 10 * rank for rank in range(size)]))
        assert minimum == 8 - size


def test_one_rank_exchanges_nothing() -> None:
    tensor = torch.ones(2, 3)
    assert SINGLE.all_reduce(tensor) is tensor
    assert SINGLE.all_gather(tensor).shape == (1, 2, 3)
    assert SINGLE.all_reduce_min(3) == 3


@pytest.mark.parametrize("vocab_size", [12, 11, 5])
def test_a_vocabulary_in_spans(vocab_size: int) -> None:
    """Rows that stand for no token hold what must not show."""
    whole = torch.randn(vocab_size, 4, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(vocab_size).flip(0)

    def both(parallel: TensorParallel) -> tuple[Tensor, Tensor]:
        start, end = parallel.span(vocab_size)
        weight = torch.full((parallel.shard_size(vocab_size), 4), float("nan"))
        weight[: end - start] = whole[start:end]
        rows = embed(ids, weight, torch.float32, parallel)
        logits = gather_logits(rows @ weight.T, vocab_size, parallel)
        return rows, logits

    for rows, logits in on_ranks(4, both):
        assert torch.equal(rows, whole[ids])
        assert logits.is_contiguous()
        torch.testing.assert_close(logits, whole[ids] @ whole.T)


@pytest.mark.parametrize("name", ["qwen3_bias_yarn", "qwen2_bias", "qwen3_sharded"])
def test_the_parts_of_all_ranks_make_every_tensor(name: str, tmp_path: Path) -> None:
    folder = make_checkpoint(name, tmp_path)
    config = DecoderConfig.from_folder(folder)
    whole = dict(load_decoder(folder, config, ModelOptions(torch.float32, CPU)).weights())
    parallels = [TensorParallel(rank, 2) for rank in range(2)]
    ranks = [
        dict(load_decoder(folder, config, options).weights())
        for options in (ModelOptions(torch.float32, CPU, parallel=each) for each in parallels)
    ]
    cuts = {weight.name: weight.cut for weight in config.plan.weights()}
    assert set(cuts.values()) >= {Cut.WHOLE, Cut.OUTPUTS, Cut.INPUTS}
    for tensor_name, tensor in whole.items():
        parts = [weights[tensor_name] for weights in ranks]
        cut = cuts[tensor_name]
        if cut is Cut.WHOLE:
            assert all(torch.equal(part, tensor) for part in parts)
        elif cut is Cut.ONCE:
            assert torch.equal(parts[0], tensor) and not parts[1].any() and tensor.any()
        else:
            dimension = 0 if cut is Cut.OUTPUTS else 1
            joined = torch.cat(parts, dimension)
            assert torch.equal(joined.narrow(dimension, 0, tensor.shape[dimension]), tensor)
            assert not joined[len(tensor) :].any()


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_one_rank(name: str, tmp_path: Path) -> None:
    folder = make_checkpoint(name, tmp_path, seed=2)
    config = DecoderConfig.from_folder(folder)
    expected = logits_of(load_decoder(folder, config, ModelOptions(torch.float32, CPU)))

    def load(parallel: TensorParallel) -> Tensor:
        model = load_model(folder, config, ModelOptions(torch.float32, CPU, parallel=parallel))
        assert model.config.plan == config.plan.shard(2)
        return logits_of(model)

    first, second = on_ranks(2, load)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-4)


def test_logits_in_bfloat16_are_those_of_one_rank_up_to_rounding(tmp_path: Path) -> None:
    """Where the CPU packs weights, a rank packs its part; the CPU kernels do not share."""
    folder = make_checkpoint("qwen3_tied_wide", tmp_path, seed=2, dtype=torch.bfloat16)
    config = DecoderConfig.from_folder(folder)
    exact = logits_of(load_decoder(folder, config, ModelOptions(torch.float32, CPU)))

    def load(parallel: TensorParallel) -> Tensor:
        model = load_model(folder, config, ModelOptions(torch.bfloat16, CPU, parallel=parallel))
        assert isinstance(model, TorchDecoder)
        return logits_of(model).float()

    first, second = on_ranks(2, load)
    assert "qwen3_tied_wide" in KERNEL_MODELS
    assert torch.equal(first, second)
    assert (first - exact).abs().max() < 0.1 * exact.abs().max()


def test_a_shape_that_ranks_cannot_share(tmp_path: Path) -> None:
    config = DecoderConfig.from_folder(make_checkpoint("llama_biases", tmp_path))
    with pytest.raises(ConfigError, match="2 ranks cannot share the model's 1 key heads; start at"):
        config.plan.shard(2)
    wide = DecoderConfig.from_folder(make_checkpoint("qwen3_all_heads", tmp_path / "wide"))
    shapes = {weight.name: weight.shape for weight in wide.plan.shard(8).weights()}
    assert shapes["model.layers.0.mlp.up_proj.weight"] == (12, 64)
    assert shapes["model.layers.0.mlp.down_proj.weight"] == (64, 12)
    with pytest.raises(
        ConfigError, match="3 ranks cannot share .* num_attention_heads of 8: it is"
    ):
        wide.plan.shard(3)
    with pytest.raises(ConfigError, match="cannot share the model's down_proj's inputs of 96: it"):
        wide.plan.layers[0][1][1].shard(5)
