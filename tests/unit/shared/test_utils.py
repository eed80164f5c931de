import random
from typing import Any

import numpy as np
import pytest
import torch

import folovllm
import folovllm.utils
from folovllm.errors import ConfigError, InvalidRequestError
from folovllm.installation.parts import MissingPackagesError
from folovllm.utils import gpu_memory, new_request_id, random_uuid, resolve_device, set_random_seed


def test_every_public_name_can_be_imported() -> None:
    for module in (folovllm, folovllm.utils):
        for name in module.__all__:
            assert getattr(module, name) is not None
        assert set(module.__dir__()) == set(module.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        folovllm.utils.nothing  # noqa: B018


def test_a_name_whose_packages_are_missing_has_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lacks_torch(name: str) -> object:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("folovllm.installation.lazy_names.import_module", lacks_torch)
    with pytest.raises(MissingPackagesError):
        _ = folovllm.utils.gpu_memory


def test_equal_seeds_make_equal_draws() -> None:
    def draws(seed: int) -> list[float]:
        set_random_seed(seed)
        return [random.random(), float(np.random.random()), torch.rand(()).item()]

    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        assert draws(2**40) == draws(2**40) != draws(2)
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])


def test_ids_differ() -> None:
    assert new_request_id() != new_request_id() and len(random_uuid()) == 32
    assert random_uuid() != random_uuid()


def test_gpu_memory_is_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (device.index + 3, 10))
    assert gpu_memory("cuda:1") == (4, 10) and gpu_memory().total == 10
    with pytest.raises(ConfigError, match="cpu has no GPU memory"):
        gpu_memory("cpu")


def test_without_a_gpu_its_memory_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="torch finds no CUDA device"):
        gpu_memory()


@pytest.mark.parametrize("seed", ["x", -1, 1.5, 2**64])
def test_a_seed_that_is_none_is_refused(seed: Any) -> None:
    with pytest.raises(InvalidRequestError, match="seed must be a whole number from 0 on, got"):
        set_random_seed(seed)
