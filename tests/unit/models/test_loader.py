"""Loading fills every parameter, and refuses what does not fit with one clear line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.loader import load_decoder
from engine_service.models.model_options import ModelOptions
from engine_service.models.torch_decoder import TorchDecoder
from folovllm.errors import ConfigError
from support.builders.tiny_models import make_checkpoint, reference_model

CPU = torch.device("cpu")


def load(folder: Path, dtype: torch.dtype = torch.float32) -> TorchDecoder:
    return load_decoder(
        folder, DecoderConfig.from_folder(folder), ModelOptions(dtype, CPU), show_progress=True
    )


def rewrite(
    folder: Path, changes: dict[str, torch.Tensor | None], name: str = "model.safetensors"
) -> None:
    """Changes or, for None, removes tensors of a file."""
    tensors: dict[str, torch.Tensor | None] = {**load_file(folder / name), **changes}
    save_file({key: value for key, value in tensors.items() if value is not None}, folder / name)


@pytest.mark.parametrize("name", ["qwen3_untied", "qwen3_tied", "qwen2_bias", "llama_biases"])
def test_every_parameter_is_filled_from_its_tensor(name: str, tmp_path: Path) -> None:
    folder = make_checkpoint(name, tmp_path)
    model = load(folder)
    stored = reference_model(folder).state_dict()
    covered = 0
    for tensor_name, target in model.weights():
        torch.testing.assert_close(target, stored[tensor_name], rtol=0, atol=0)
        covered += target.numel()
    assert covered == sum(parameter.numel() for parameter in model.parameters())
    assert (model.lm_head is None) == (name == "qwen3_tied")


def test_a_sharded_checkpoint_has_several_files(tmp_path: Path) -> None:
    folder = make_checkpoint("qwen3_untied", tmp_path)
    assert len(list(folder.glob("*.safetensors"))) > 1


def test_weights_are_converted(tmp_path: Path) -> None:
    folder = make_checkpoint("qwen3_grouped", tmp_path, dtype=torch.bfloat16)
    stored = load_file(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    weights = dict(load(folder).weights())["model.layers.0.mlp.up_proj.weight"]
    assert stored.dtype == torch.bfloat16 and weights.dtype == torch.float32
    torch.testing.assert_close(weights, stored.float(), rtol=0, atol=0)
    assert {parameter.dtype for parameter in load(folder, torch.bfloat16).parameters()} == {
        torch.bfloat16
    }


def test_known_extra_tensors_are_ignored(tmp_path: Path) -> None:
    folder = make_checkpoint("qwen3_tied", tmp_path)
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    rewrite(
        folder,
        {
            "lm_head.weight": embedding.clone(),
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        },
    )
    assert load(folder).lm_head is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model.layers.1.self_attn.k_proj.weight": None},
            "has no tensor model.layers.1.self_attn.k_proj.weight",
        ),
        (
            {"model.layers.0.mlp.up_proj.weight": torch.zeros(3, 64)},
            r"model.layers.0.mlp.up_proj.weight has shape \[3, 64\], config.json says \[96, 64\]",
        ),
        (
            {"model.norm.weight": torch.zeros(64, dtype=torch.int8)},
            "model.norm.weight is stored as I8; supported are F32, BF16, F16",
        ),
        (
            {"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)},
            "model.layers.0.self_attn.q_proj.bias that its config.json does not use",
        ),
    ],
)
def test_tensors_that_do_not_fit(
    changes: dict[str, torch.Tensor | None], message: str, tmp_path: Path
) -> None:
    folder = make_checkpoint("qwen3_grouped", tmp_path)
    rewrite(folder, changes)
    with pytest.raises(ConfigError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_an_untied_checkpoint_needs_its_head(tmp_path: Path) -> None:
    folder = make_checkpoint("qwen3_grouped", tmp_path)
    rewrite(folder, {"lm_head.weight": None})
    with pytest.raises(ConfigError, match="has no tensor lm_head.weight"):
        load(folder)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    folder = make_checkpoint("qwen3_grouped", tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="has no weights: it needs model.safetensors"):
        load(folder)


def test_a_missing_shard_and_a_broken_index(tmp_path: Path) -> None:
    folder = make_checkpoint("qwen3_untied", tmp_path)
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(ConfigError, match=f"has no {shard.name}, which its model.safetensors.ind"):
        load(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}}))
    with pytest.raises(ConfigError, match="has no weight_map"):
        load(folder)


def test_a_file_that_is_not_safetensors(tmp_path: Path) -> None:
    folder = make_checkpoint("qwen3_grouped", tmp_path)
    (folder / "model.safetensors").write_bytes(b"PK\x03\x04 not what the name says")
    with pytest.raises(ConfigError, match="is not a safetensors file"):
        load(folder)
