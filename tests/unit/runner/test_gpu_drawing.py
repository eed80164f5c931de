"""Draws on the GPU of scheduled sequences are the sampler's, whatever they ask for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from engine_service.core.outputs import ScheduledSequence
from engine_service.core.token_matcher import TokenMatcher
from engine_service.draw_fields import DRAW_PARAMS, DRAW_WORDS
from engine_service.kernels.gpu.sampling.sampler import make_workspace
from engine_service.runner.gpu.drawing import Draw, change_logits, draw_all, pack_draws
from engine_service.runner.sampling.grammar_masks import GrammarMasks
from engine_service.runner.sampling.logits_processors import process_logits
from engine_service.runner.sampling.sampler import sample
from folovllm.parameters.structured_output import StructuredOutput
from folovllm.sampling_params import SamplingParams
from support.builders.grammar_walks import demo_compiler
from support.twins.gpu_draws import SMALL
from support.twins.gpu_twins import DEVICE

VOCAB = 300
RANDOM = SamplingParams(temperature=0.9, top_k=20, top_p=0.9, min_p=0.01)
PARAMS = [RANDOM, SamplingParams(temperature=0.0), RANDOM.clone(top_k=0), SamplingParams()]


def scheduled(number: int, params: SamplingParams) -> ScheduledSequence:
    seed = 2**64 - 1 - number * 2**33
    return ScheduledSequence(number, (5,), 10 + number, (), params, seed, sample_indexes=(number,))


def draws_of(*params: SamplingParams) -> list[Draw]:
    return [Draw(scheduled(number, each), number) for number, each in enumerate(params)]


def random_logits(num_rows: int, vocab_size: int = VOCAB) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(num_rows, vocab_size, generator=generator) * 3


def test_every_draw_has_its_own_parameters() -> None:
    draws = draws_of(*PARAMS)
    found = dict(zip(DRAW_WORDS, pack_draws(draws), strict=True))
    seeds = np.stack([found["seed_low"], found["seed_high"]], axis=1).view(np.uint64)
    assert seeds[:, 0].tolist() == [draw.sequence.seed for draw in draws]
    assert found["index"].tolist() == [0, 1, 2, 3]
    assert found["position"].tolist() == [11, 12, 13, 14]
    for name, dtype in DRAW_PARAMS.items():
        expected = np.array([getattr(p, name) for p in PARAMS], dtype=dtype)
        assert np.array_equal(found[name].view(dtype), expected)


@pytest.mark.parametrize("max_rows", [2, 8])
def test_more_draws_than_the_workspace_has_rows(max_rows: int) -> None:
    draws = draws_of(*PARAMS, RANDOM)
    logits = random_logits(len(draws))
    workspace = make_workspace(max_rows, VOCAB, DEVICE, SMALL)
    expected = sample(logits.clone(), [draw.sequence for draw in draws])
    found = draw_all(logits.to(DEVICE), draws, workspace)
    assert [[token] for token in found.tolist()] == expected


def test_what_makes_a_draw_alter_the_logits() -> None:
    plain = scheduled(0, RANDOM)
    for sequence, alters in (
        (plain, False),
        (replace(plain, forbidden_token_ids=(3,)), True),
        (replace(plain, matcher=digits()), True),
        (scheduled(0, RANDOM.clone(logit_bias={3: 1.0})), True),
    ):
        assert Draw(sequence, 0).alters_logits == alters


def digits() -> TokenMatcher:
    return demo_compiler().compile(StructuredOutput("regex", "[0-9]{3}")).matcher()


@pytest.mark.parametrize("beside", ["another grammar", "another draw", "something else"])
def test_changed_logits_are_the_processors(beside: str) -> None:
    """Of a row that follows a grammar, and of what is beside it."""
    vocab_size, rows = 2048, [3, 1]
    follows = replace(scheduled(0, RANDOM), matcher=digits())
    others = {
        "another grammar": replace(scheduled(1, RANDOM), matcher=digits()),
        "another draw": follows,
        "something else": scheduled(
            1, RANDOM.clone(logit_bias={7: 2.5}, allowed_token_ids=range(5, 90))
        ),
    }
    draws = [Draw(follows, 0), Draw(others[beside], 1)]
    logits, masks = random_logits(4, vocab_size), GrammarMasks(vocab_size)
    sequences = [draw.sequence for draw in draws]
    expected = process_logits(logits[rows].clone(), sequences, masks.fill(sequences))
    found = change_logits(logits.to(DEVICE), rows, draws, masks)
    assert found.is_contiguous() and found.shape == (2, vocab_size)
    assert torch.equal(found.cpu().isinf(), expected < -1e30)
    possible = expected > -1e30
    assert 0 < int(possible.sum()) < 2 * vocab_size
    torch.testing.assert_close(found.cpu()[possible], expected[possible])
