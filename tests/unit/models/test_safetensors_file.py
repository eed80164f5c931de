"""A weights file is read whole or refused in one line, whatever happens to it."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.loader import load_decoder
from engine_service.models.model_options import ModelOptions
from engine_service.models.weights.safetensors_file import SafetensorsFile
from folovllm.errors import ConfigError
from support.builders.tiny_models import make_checkpoint

TENSORS = {
    "wide": torch.randn(7, 5),
    "half": torch.randn(3, 2, 2).to(torch.bfloat16),
    "one": torch.tensor(3.5, dtype=torch.float16),
    "none": torch.empty(0, 4),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path / "model.safetensors"


def test_it_has_what_the_library_has_written(path: Path) -> None:
    with SafetensorsFile(path) as file:
        assert file.tensors.keys() == TENSORS.keys()
        for name, tensor in TENSORS.items():
            found = file.read(name)
            assert found.dtype == tensor.dtype and torch.equal(found, tensor)
        assert torch.equal(file.read("wide", slice(2, 5)), TENSORS["wide"][2:5])
        assert file.read("wide", slice(7, 9)).shape == (0, 5)


def test_a_file_that_is_cut_short_is_refused_at_once(path: Path) -> None:
    whole = path.read_bytes()
    for size in (0, 3, 8, 20, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ConfigError) as refused:
            SafetensorsFile(path)
        assert "\n" not in str(refused.value) and str(path) in str(refused.value)
    assert f"is cut short: 1 bytes of {len(whole)} are missing" in str(refused.value)


def test_a_file_that_is_cut_short_while_it_is_read_ends_no_process(path: Path) -> None:
    with SafetensorsFile(path) as file:
        before = file.read("wide")
        with path.open("r+b") as other:
            other.truncate(file.tensors["wide"].start + 8)
        with pytest.raises(ConfigError, match="was cut short: it ends within wide"):
            file.read("wide")
        assert torch.equal(before, TENSORS["wide"])


def test_a_model_that_is_loaded_needs_its_file_no_more(tmp_path: Path) -> None:
    folder = make_checkpoint("qwen3_tied", tmp_path)
    config = DecoderConfig.from_folder(folder)
    for dtype in (torch.float32, torch.bfloat16):
        model = load_decoder(folder, config, ModelOptions(dtype, torch.device("cpu")))
        before = model.embed_tokens.clone()
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(b"")  # in a mapping this would be fatal
        assert torch.equal(model.embed_tokens, before)
        (folder / "model.safetensors").write_bytes(content)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_header_is_read_wrongly(path: Path, data: st.DataObject) -> None:
    save_file(TENSORS, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 200))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        with SafetensorsFile(path) as file:
            for name, stored in file.tensors.items():
                if stored.dtype in ("F32", "BF16", "F16"):
                    assert tuple(file.read(name).shape) == stored.shape
    except ConfigError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1]},
        [],
        None,
    ],
)
def test_an_entry_that_contradicts_itself(entry: object, tmp_path: Path) -> None:
    header = json.dumps({"a": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(ConfigError, match="is not a safetensors file: its header cannot be read"):
        SafetensorsFile(path)
