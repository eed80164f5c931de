"""The decoder equals transformers' on random small checkpoints of every supported kind."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine_service.config import CacheConfig, EngineConfig, ModelConfig
from engine_service.core.outputs import ScheduledSequence, SchedulerOutput
from engine_service.runner.build import build_runner
from support.builders.tiny_models import TINY_MODELS, make_checkpoint, reference_model
from support.twins.decoder_logits import (
    GREEDY,
    load,
    our_logits,
    prompt,
    reference_logits,
    relative_error,
)


@pytest.fixture(scope="module", params=TINY_MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(request.param, tmp_path_factory.mktemp(request.param), seed=1)


def test_float32_logits(folder: Path) -> None:
    token_ids = prompt(200, seed=2)
    expected = reference_logits(folder, token_ids, torch.float32)
    model = load(folder, torch.float32)
    for chunks in ([200], [64, 64, 72], [1] * 7 + [93, 1, 99], [199, 1]):
        logits = our_logits(model, token_ids, chunks)
        assert relative_error(logits, expected) < 1e-4
        # No single position may hide in the norm of all.
        errors = (logits - expected).norm(dim=-1) / expected.norm(dim=-1)
        assert float(errors.max()) < 1e-4


@pytest.mark.parametrize("name", TINY_MODELS)
def test_bfloat16_logits_are_as_close_as_transformers_own(name: str, tmp_path: Path) -> None:
    folder = make_checkpoint(name, tmp_path, seed=1, dtype=torch.bfloat16)
    model = load(folder, torch.bfloat16)
    ours, theirs = 0.0, 0.0
    for seed in range(3):
        token_ids = prompt(150, seed)
        expected = reference_logits(folder, token_ids, torch.float32)
        ours += relative_error(our_logits(model, token_ids, [100, 49, 1]), expected)
        theirs += relative_error(reference_logits(folder, token_ids, torch.bfloat16), expected)
    assert ours <= 1.25 * theirs


def reference_greedy(folder: Path, token_ids: list[int], steps: int) -> list[int]:
    """transformers' greedy continuation, without its cache."""
    model = reference_model(folder)
    token_ids = list(token_ids)
    with torch.inference_mode():
        for _ in range(steps):
            logits = model(torch.tensor([token_ids])).logits[0, -1]
            token_ids.append(int(logits.argmax()))
    return token_ids[-steps:]


def greedy_steps(folder: Path, token_ids: list[int]) -> Iterator[int]:
    """Our greedy continuation: the prompt in one step, then one token a step."""
    config = EngineConfig(
        model=ModelConfig(dtype="float32", device="cpu"), cache=CacheConfig(num_blocks=40)
    )
    runner = build_runner(config, folder, show_progress=False).runner
    computed, new = 0, list(token_ids)
    while True:
        part = ScheduledSequence(0, new, computed, range(39, -1, -1), GREEDY, 0, (0,))
        computed += len(new)
        (drawn,) = runner.execute(SchedulerOutput((part,))).sampled_token_ids
        new = list(drawn)
        yield new[0]


def test_greedy_tokens(folder: Path) -> None:
    token_ids = prompt(23, seed=4)
    expected = reference_greedy(folder, token_ids, steps=64)
    steps = greedy_steps(folder, token_ids)
    assert [next(steps) for _ in range(64)] == expected
    # A model that repeats itself would prove little.
    assert len(set(expected)) > 10
