"""Penalties, biases and bad words through the whole engine, however a request is scheduled."""

from pathlib import Path

import pytest
import torch

from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine_service.core.request import Request
from engine_service.engine.factory import build_engine
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams
from support.builders.tiny_models import VOCAB_SIZE, make_checkpoint, reference_model
from support.twins.exact_sampling import processed_logits

STEPS = 24
GREEDY = SamplingParams(temperature=0.0, max_tokens=STEPS, ignore_eos=True)
LENGTHS = (3, 9, 20, 33)
CHANGES: list[dict[str, object]] = [
    {"repetition_penalty": 1.4},
    {"presence_penalty": 2.0, "frequency_penalty": 1.5},
    {"logit_bias": {7: 3.0, 9: -5.0, 300: 6.0}, "repetition_penalty": 1.2},
    {"allowed_token_ids": range(30, 60), "frequency_penalty": 0.7, "logit_bias": {33: 2.0}},
    {"repetition_penalty": 0.8, "frequency_penalty": 2.0},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("qwen3_grouped", tmp_path_factory.mktemp("penalties"), seed=6)


@pytest.fixture(scope="module")
def cases(folder: Path) -> list[tuple[list[int], SamplingParams, list[int]]]:
    """Prompt, parameters, and what transformers' logits and the plain formulas make of them."""
    model = reference_model(folder)
    generator = torch.Generator().manual_seed(8)
    made = []
    for length in LENGTHS:
        prompt = torch.randint(2, VOCAB_SIZE, (length,), generator=generator).tolist()
        free = _greedy(model, prompt, GREEDY)
        bad_words: dict[str, object] = {"bad_words_token_ids": [free[2:3], free[4:6], free[8:11]]}
        for changes in (*CHANGES, bad_words, bad_words | CHANGES[0]):
            params = GREEDY.clone(**changes)
            answer = _greedy(model, prompt, params)
            assert answer != free
            made.append((prompt, params, answer))
    return made


@torch.no_grad()
def _greedy(model: torch.nn.Module, prompt: list[int], params: SamplingParams) -> list[int]:
    output: list[int] = []
    while len(output) < STEPS:
        logits = model(torch.tensor([[*prompt, *output]])).logits[0, -1]
        values = processed_logits(logits.double().numpy(), params, prompt, output)
        output.append(int(values.argmax()))
    return output


@pytest.mark.parametrize(
    ("num_blocks", "max_num_seqs", "budget"),
    [(500, 64, 512), (500, 4, 7), (30, 28, 28)],
    ids=["whole", "chunked", "preempted"],
)
def test_greedy_tokens_are_those_of_the_formulas(
    folder: Path,
    cases: list[tuple[list[int], SamplingParams, list[int]]],
    num_blocks: int,
    max_num_seqs: int,
    budget: int,
) -> None:
    model = ModelConfig(str(folder), dtype="float32", device="cpu")
    cache = CacheConfig(block_size=4, num_blocks=num_blocks)
    engine = build_engine(EngineConfig(model, cache, SchedulerConfig(max_num_seqs, budget)))
    results = {str(number): RequestOutput() for number in range(len(cases))}
    for name, (prompt, params, _) in zip(results, cases, strict=True):
        engine.add_request(Request(name, prompt, params.clone(n=2)))
    while engine.has_unfinished_requests():
        for output in engine.step():
            results[output.request_id].add(output)
    preemptions = 0
    for result, (_, _, answer) in zip(results.values(), cases, strict=True):
        for each in result.outputs:
            assert each.token_ids == answer
            preemptions += each.metrics.preemptions if each.metrics else 0
    assert num_blocks > 30 or preemptions > 0
