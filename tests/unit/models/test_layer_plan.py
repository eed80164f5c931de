"""A plan says what a checkpoint has, and each backend names what it does not compute of it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine_service.kernels.cpu import library as cpu_library
from engine_service.layers.parallel import TensorParallel
from engine_service.models import cpu_decoder, gpu_decoder, torch_decoder
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.layer_plan import (
    Attention,
    Cut,
    DecoderPlan,
    LayerPlan,
    Mlp,
    Norm,
    Projection,
    not_pre_norm,
    unknown_flag,
)
from engine_service.models.loader import load_model
from engine_service.models.model_options import ModelOptions
from folovllm.errors import ConfigError
from support.builders.tiny_models import (
    KERNEL_MODELS,
    TINY_MODELS,
    make_checkpoint,
    reference_model,
)

OPTIONS = ModelOptions(torch.bfloat16, torch.device("cpu"))
CUDA, RANK_OF_2 = torch.device("cuda", 0), TensorParallel(0, 2)
BACKENDS = (cpu_decoder, gpu_decoder, torch_decoder)


@pytest.fixture
def config(tmp_path: Path) -> DecoderConfig:
    return DecoderConfig.from_folder(make_checkpoint("qwen3_tied_wide", tmp_path))


def with_layers(config: DecoderConfig, layer: LayerPlan) -> DecoderConfig:
    """One whose second layer is `layer`."""
    return replace(config, plan=replace(config.plan, layers=(config.plan.layers[0], layer)))


@pytest.mark.parametrize("name", [*TINY_MODELS, *KERNEL_MODELS])
def test_it_lists_the_tensors_of_a_checkpoint(name: str, tmp_path: Path) -> None:
    folder = make_checkpoint(name, tmp_path)
    config = DecoderConfig.from_folder(folder)
    stored = {
        key: tuple(value.shape) for key, value in reference_model(folder).state_dict().items()
    }
    if config.plan.head is None:
        del stored["lm_head.weight"]
    assert {weight.name: weight.shape for weight in config.plan.weights()} == stored


def test_kernels_name_an_operation_in_another_position(config: DecoderConfig) -> None:
    (norm, attention), mlp = config.plan.layers[0]
    more: LayerPlan = ((norm, attention, Norm("post_attn_norm", 64)), mlp)
    parallel: LayerPlan = ((norm, attention), mlp, (Norm("third_norm", 64),))
    for layer, name in (
        (more, "post_attn_norm"),
        (parallel, "third_norm"),
        (((norm, attention),), "a layer without Norm"),
        ((mlp, mlp), "mlp"),
    ):
        changed = with_layers(config, layer)
        assert not_pre_norm(changed.plan) == name
        for backend, kind in ((cpu_decoder, "CPU"), (gpu_decoder, "GPU")):
            reason = backend.obstacle(changed, OPTIONS)
            assert reason == f"the {kind} kernels do not compute {name}"
        assert torch_decoder.obstacle(changed, OPTIONS) is None


@dataclass(frozen=True, slots=True)
class Windowed(Attention):
    """An operation that no backend knows."""

    window: int | None = None


@dataclass(frozen=True, slots=True)
class Scaled(DecoderPlan):
    """A plan with a flag that no backend knows."""

    embedding_scale: float = 1.0


def fields_of(value: object) -> dict[str, object]:
    """Of a dataclass, not deep."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}  # type: ignore[attr-defined]


def test_every_backend_refuses_a_new_flag_and_a_new_operation(config: DecoderConfig) -> None:
    plan = Scaled(**fields_of(config.plan), embedding_scale=2.0)  # type: ignore[arg-type]
    (norm, attention), mlp = config.plan.layers[0]
    windowed = Windowed(**fields_of(attention), window=8)  # type: ignore[arg-type]
    for backend in BACKENDS:
        assert backend.obstacle(config, OPTIONS) is None
        unset = replace(config, plan=replace(plan, embedding_scale=1.0))
        assert backend.obstacle(unset, OPTIONS) is None
        reason = backend.obstacle(replace(config, plan=plan), OPTIONS)
        assert reason is not None and reason.endswith("not compute embedding_scale of the model")
        reason = backend.obstacle(with_layers(config, ((norm, windowed), mlp)), OPTIONS)
        assert reason is not None and reason.endswith("not compute self_attn")


def test_flags_are_named_with_their_operation(config: DecoderConfig) -> None:
    assert unknown_flag(config.plan, {"bias", "q_norm", "k_norm"}) is None
    assert unknown_flag(config.plan, {"bias"}) == "q_norm of self_attn"
    norm, mlp = config.plan.layers[0][1]
    assert isinstance(mlp, Mlp)
    biased = replace(mlp, down=replace(mlp.down, bias=True))
    layer = (config.plan.layers[0][0], (norm, biased))
    plan = with_layers(config, layer).plan
    assert unknown_flag(plan, {"q_norm", "k_norm"}) == "bias of down_proj"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cache_dtype": "fp8"}, "kv_cache_dtype fp8 needs the kernels for GPUs"),
        ({"quantization": "int8", "device": CUDA}, "int8 is for cpu, not for cuda:0; use none"),
        ({"quantization": "int4", "parallel": RANK_OF_2}, "quantization int4 is for one rank"),
        (
            {"deterministic": True, "parallel": RANK_OF_2},
            "deterministic is for one rank",
        ),
    ],
)
def test_plain_torch_says_which_options_it_lacks(
    config: DecoderConfig, changes: dict[str, Any], message: str
) -> None:
    assert message in str(torch_decoder.obstacle(config, replace(OPTIONS, **changes)))


def test_a_refused_plan_falls_back_or_fails_by_name(
    config: DecoderConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = replace(OPTIONS, block_size=8)
    assert load_model(tmp_path, config, options).kernels == "torch"
    if cpu_library.processor_has_kernels():
        assert "plain torch computes: the CPU kernels take a block_size in" in caplog.text
    plan = Scaled(**fields_of(config.plan), embedding_scale=2.0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="plain torch does not compute embedding_scale"):
        load_model(tmp_path, replace(config, plan=plan), OPTIONS)


def test_what_is_not_cut_every_rank_has() -> None:
    router = Projection("gate", (("gate", 8),), 64, Cut.WHOLE)
    assert router.shard(2) is router
