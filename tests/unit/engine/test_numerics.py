"""Engines have one numerics fingerprint only where a request gets the same tokens from both."""

from dataclasses import replace

import pytest
import torch

from engine_service.engine import numerics as numerics_module
from engine_service.engine.numerics import Numerics

KERNELS = Numerics(
    replica="abc",
    kernels="cpu",
    device=torch.device("cpu"),
    block_size=16,
    num_ranks=1,
    deterministic=False,
)
DIFFERENCES = [{"replica": "abd"}, {"block_size": 32}, {"kernels": "torch", "deterministic": True}]


def test_like_engines_have_the_same() -> None:
    assert KERNELS.fingerprint() == replace(KERNELS).fingerprint() != ""


@pytest.mark.parametrize("difference", DIFFERENCES, ids=str)
def test_unlike_engines_have_others(difference: dict[str, object]) -> None:
    other = replace(KERNELS, **difference)  # type: ignore[arg-type]
    assert other.fingerprint() not in ("", KERNELS.fingerprint())


def test_a_raised_version_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    before = KERNELS.fingerprint()
    monkeypatch.setattr(numerics_module, "NUMERICS_VERSION", numerics_module.NUMERICS_VERSION + 1)
    assert KERNELS.fingerprint() != before


def test_the_number_of_threads_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = KERNELS.fingerprint()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert KERNELS.fingerprint() != before


@pytest.mark.parametrize(
    "setting", [{"kernels": "torch"}, {"kernels": "gpu"}, {"num_ranks": 2}], ids=str
)
def test_what_is_not_reproducible_has_none(setting: dict[str, object]) -> None:
    assert replace(KERNELS, **setting).fingerprint() == ""  # type: ignore[arg-type]
