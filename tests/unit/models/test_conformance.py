"""The table of docs/models.md: what it grants is computed, what it refuses is refused."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine_service.kernels.cpu import library as cpu_library
from engine_service.kernels.gpu import support as gpu_support
from engine_service.layers.parallel import SINGLE, TensorParallel
from engine_service.models import loader
from engine_service.models.causal_model import CausalModel
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.loader import load_decoder, load_model
from engine_service.models.model_options import ModelOptions
from folovllm.errors import ConfigError
from support.processes.rank_threads import on_ranks
from support.twins.decoder_logits import our_logits, prompt, relative_error
from tools.conformance import BACKENDS, MODELS, OPTIONS, PAGE, cells, options_of, table

CHUNKS = ([30], [29, 1])
CPU_BACKENDS = [name for name, backend in BACKENDS.items() if backend.device == "cpu"]
LIMITS = {"float32": 1e-5, "int8": 0.1, "int4": 0.6, "deterministic int4": 0.6}
DEFAULT_LIMIT = 0.05


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A random checkpoint of each model, with the tensors that its plan lists."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for model, values in MODELS.items():
        made[model] = folder = tmp_path_factory.mktemp("model")
        (folder / "config.json").write_text(json.dumps(values))
        tensors = {}
        for name, shape, _ in DecoderConfig.from_json(values).plan.weights():
            noise = torch.randn(shape, generator=generator)
            tensors[name] = 2 * noise / shape[1] ** 0.5 if len(shape) == 2 else 1 + 0.2 * noise
        save_file(tensors, folder / "model.safetensors")
    return made


@pytest.fixture(scope="module")
def expected(folders: Mapping[str, Path]) -> Mapping[str, Tensor]:
    options = ModelOptions(torch.float32, torch.device("cpu"), deterministic=True)
    return {
        model: our_logits(
            load_decoder(folder, DecoderConfig.from_folder(folder), options), prompt(30, 1), [30]
        )
        for model, folder in folders.items()
    }


def load(backend: str, folder: Path, options: ModelOptions) -> CausalModel:
    config = DecoderConfig.from_folder(folder)
    if BACKENDS[backend].kernels == "torch":
        return load_decoder(folder, config, options)
    model = load_model(folder, config, options)
    assert model.kernels == BACKENDS[backend].kernels
    return model


def test_the_page_has_the_table() -> None:
    assert table() in PAGE.read_text()


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_what_is_granted_is_computed(
    backend: str, option: str, folders: Mapping[str, Path], expected: Mapping[str, Tensor]
) -> None:
    if backend == "CPU kernels" and cpu_library.find_or_build() is None:
        pytest.skip("the CPU kernels cannot be used")
    for cell in cells():
        if (cell.backend, cell.option) != (backend, option) or cell.reason:
            continue

        def logits(parallel: TensorParallel, model: str = cell.model) -> list[Tensor]:
            options = replace(options_of(backend, option), parallel=parallel)
            made = load(backend, folders[model], options)
            return [our_logits(made, prompt(30, 1), chunks) for chunks in CHUNKS]

        size = options_of(backend, option).parallel.size
        whole, chunked = on_ranks(size, logits)[0] if size > 1 else logits(SINGLE)
        limit = LIMITS.get(option, DEFAULT_LIMIT)
        assert relative_error(whole, expected[cell.model]) < limit
        assert "deterministic" not in option or torch.equal(whole, chunked)


@pytest.mark.parametrize("option", OPTIONS)
def test_what_plain_torch_refuses_cannot_be_loaded(
    option: str, folders: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_gpu_kernels_compute", lambda *_: False)
    monkeypatch.setattr(loader, "_cpu_library", lambda *_: None)
    for cell in cells():
        if cell.option == option and cell.reason and BACKENDS[cell.backend].kernels == "torch":
            config = DecoderConfig.from_folder(folders[cell.model])
            with pytest.raises(ConfigError) as caught:
                load_model(folders[cell.model], config, options_of(cell.backend, option))
            assert str(caught.value) == cell.reason


@pytest.mark.parametrize("backend", ["CPU kernels", "GPU kernels"])
def test_what_kernels_refuse_is_logged(
    backend: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(cpu_library, "processor_has_kernels", lambda: True)
    monkeypatch.setattr(gpu_support, "obstacle", lambda: None)
    find: Any = loader._cpu_library if backend == "CPU kernels" else loader._gpu_kernels_compute
    for cell in cells():
        if cell.backend == backend and cell.reason:
            caplog.clear()
            config = DecoderConfig.from_json(MODELS[cell.model])
            assert not find(config, options_of(backend, cell.option))
            assert f"plain torch computes: {cell.reason}" in caplog.text
