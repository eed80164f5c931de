"""The whole engine equals transformers: alone, batched, chunked, prefix-cached and preempted."""

from pathlib import Path

import pytest
import torch

from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine_service.core.request import Request
from engine_service.engine.factory import build_engine
from engine_service.engine.llm_engine import LLMEngine
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams
from support.builders.tiny_models import TINY_MODELS, VOCAB_SIZE, make_checkpoint, reference_model
from support.integrity import check_integrity

STEPS = 64
NUM_REQUESTS = 32
# No end before STEPS tokens, for them (min_new_tokens) as for us.
PARAMS = SamplingParams(temperature=0.0, max_tokens=STEPS, min_tokens=STEPS)
# transformers answers every fifth prompt; the others must only equal themselves.
SHARE = 5


def prompts() -> list[list[int]]:
    """32 prompts of 3 to 65 tokens; every third begins as the one before it."""
    generator = torch.Generator().manual_seed(5)
    made: list[list[int]] = []
    for number in range(NUM_REQUESTS):
        length = 3 + 2 * number
        made.append(torch.randint(2, VOCAB_SIZE, (length,), generator=generator).tolist())
        if number % 3 == 2:
            made[-1][: len(made[-2])] = made[-2]
    return made


@pytest.fixture(scope="module", params=TINY_MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(request.param, tmp_path_factory.mktemp("engine"), seed=3)


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[list[int]]:
    """transformers' greedy answers to every fifth prompt, each alone."""
    model = reference_model(folder)
    answers = []
    for prompt in prompts()[::SHARE]:
        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            min_new_tokens=STEPS,
            max_new_tokens=STEPS,
        )
        answers.append(output[0, len(prompt) :].tolist())
    return answers


def engine_of(folder: Path, cache: CacheConfig, scheduler: SchedulerConfig) -> LLMEngine:
    model = ModelConfig(str(folder), dtype="float32", device="cpu")
    return build_engine(EngineConfig(model, cache, scheduler))


def answers_of(engine: LLMEngine, batch: list[list[int]]) -> tuple[list[list[int]], int]:
    """The greedy answers, all requests at once, and how often one was preempted."""
    results = {str(number): RequestOutput() for number in range(len(batch))}
    for name, prompt in zip(results, batch, strict=True):
        engine.add_request(Request(name, prompt, PARAMS))
    while engine.has_unfinished_requests():
        for output in engine.step():
            results[output.request_id].add(output)
    check_integrity(engine.scheduler)
    outputs = [result.outputs[0] for result in results.values()]
    preemptions = sum(output.metrics.preemptions for output in outputs if output.metrics)
    return [output.token_ids for output in outputs], preemptions


def test_greedy_tokens_alone_batched_and_from_the_prefix_cache(
    folder: Path, expected: list[list[int]]
) -> None:
    engine = engine_of(folder, CacheConfig(num_blocks=400), SchedulerConfig())
    alone, _ = answers_of(engine, prompts()[-1:])
    batched, preemptions = answers_of(engine, prompts())
    assert batched[::SHARE] == expected and preemptions == 0
    assert batched[-1:] == alone
    again, _ = answers_of(engine, prompts())
    assert again == batched


def test_greedy_tokens_chunked_and_preempted(folder: Path, expected: list[list[int]]) -> None:
    # 24 blocks hold two of the longest requests; a step computes at most 40 tokens.
    cache = CacheConfig(block_size=16, num_blocks=24)
    scheduler = SchedulerConfig(max_num_seqs=32, max_num_batched_tokens=40)
    answers, preemptions = answers_of(engine_of(folder, cache, scheduler), prompts())
    assert answers[::SHARE] == expected
    assert preemptions > 0


def test_n_greedy_sequences_are_equal_and_n_random_ones_are_not(folder: Path) -> None:
    engine = engine_of(folder, CacheConfig(num_blocks=100), SchedulerConfig())
    texts = {}
    for temperature in (0.0, 1.0):
        params = PARAMS.clone(n=8, temperature=temperature, seed=1)
        result = RequestOutput()
        engine.add_request(Request("n", prompts()[3], params))
        while engine.has_unfinished_requests():
            for output in engine.step():
                result.add(output)
        texts[temperature] = {tuple(output.token_ids) for output in result.outputs}
    assert len(texts[0.0]) == 1 and len(texts[1.0]) == 8
