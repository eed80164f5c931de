"""On a GPU the engine gives the CPU's tokens, from graphs and without, whatever it is short of.

Needs nothing of tests/conftest.py, so that it runs where little is installed:
PYTHONPATH=tests python -m pytest -c /dev/null --noconftest tests/gpu
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine_service.core.outputs import ScheduledSequence
from engine_service.core.request import Branch, Request
from engine_service.engine.factory import build_engine
from engine_service.engine.llm_engine import LLMEngine
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.loader import load_model
from engine_service.models.model_options import ModelOptions
from engine_service.runner.gpu.decode_graphs import DecodeGraphs
from engine_service.runner.gpu.mixed_graphs import MixedGraphs
from engine_service.runner.gpu.model_runner import GpuModelRunner
from engine_service.runner.gpu.step import GpuStep
from folovllm.errors import NotFoundError
from folovllm.outputs import FinishReason, RequestOutput
from folovllm.sampling_params import SamplingParams
from support.builders.tiny_models import (
    TINY_MODELS,
    VOCAB_SIZE,
    WITH_KERNELS,
    WITHOUT_KERNELS,
    make_checkpoint,
)
from support.integrity import check_integrity
from support.twins.decoder_logits import our_logits, prompt, reference_logits, relative_error

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

GREEDY = SamplingParams(temperature=0.0, max_tokens=32, ignore_eos=True)
SEEDED = GREEDY.clone(temperature=0.7, top_k=20, seed=1)


def engine_on(
    device: str,
    folder: Path,
    num_blocks: int = 200,
    *,
    dtype: str = "float32",
    cache_dtype: str = "auto",
    speculation: str = "none",
) -> LLMEngine:
    """With blocks of 16 tokens, and steps of 48."""
    return build_engine(
        EngineConfig(
            ModelConfig(str(folder), dtype=dtype, device=device),
            CacheConfig(16, num_blocks, dtype=cache_dtype),
            SchedulerConfig(16, 48, speculation=speculation),
        )
    )


def random_prompt(length: int, generator: torch.Generator) -> list[int]:
    return torch.randint(2, VOCAB_SIZE, (length,), generator=generator).tolist()


def run(engine: LLMEngine, requests: Sequence[Request]) -> dict[str, RequestOutput]:
    """All at once; leaves nothing behind."""
    results = {request.request_id: RequestOutput() for request in requests}
    for request in requests:
        engine.add_request(request)
    while engine.has_unfinished_requests():
        for output in engine.step():
            results[output.request_id].add(output)
    check_integrity(engine.scheduler)
    assert engine.load().num_free_kv_blocks == engine.info.num_kv_blocks
    return results


def tokens(results: dict[str, RequestOutput]) -> list[list[list[int]]]:
    return [[output.token_ids for output in result.outputs] for result in results.values()]


def preemptions(results: dict[str, RequestOutput]) -> int:
    outputs = [output for result in results.values() for output in result.outputs]
    return sum(output.metrics.preemptions for output in outputs if output.metrics)


def mixed_requests() -> list[Request]:
    """16 prompts of 5 to 110 tokens, greedy ones and seeded ones, n = 1 and 2."""
    generator = torch.Generator().manual_seed(0)
    return [
        Request(
            str(number),
            random_prompt(5 + 7 * number, generator),
            (SEEDED if number % 4 == 0 else GREEDY).clone(n=1 + number % 2, seed=number),
        )
        for number in range(16)
    ]


@pytest.mark.parametrize("name", TINY_MODELS)
def test_cuda_equals_cpu(name: str, tmp_path: Path) -> None:
    folder = make_checkpoint(name, tmp_path, seed=1)
    expected = tokens(run(engine_on("cpu", folder), mixed_requests()))
    engine = engine_on("cuda", folder)
    assert engine.info.kernels == ("torch" if name == WITHOUT_KERNELS else "gpu")
    for attempt in range(2):
        results = run(engine, mixed_requests())
        assert tokens(results) == expected
        # The second time prompts come from the prefix cache.
        info = results["15"].info
        assert info is not None and (info.cached_tokens > 0) == (attempt == 1)
    short_of_memory = run(engine_on("cuda", folder, num_blocks=30), mixed_requests())
    assert preemptions(short_of_memory) > 0
    assert tokens(short_of_memory) == expected


def recorded_steps(engine: LLMEngine) -> list[tuple[Tensor, Tensor]]:
    """Where what every step draws goes, and what from: token ids and logits, on the CPU.

    Of the rows that draw: what padding computes means nothing.
    """
    runner = engine.runner
    assert isinstance(runner, GpuModelRunner)
    found: list[tuple[Tensor, Tensor]] = []
    finish = runner._finish

    def record(
        scheduled: Sequence[ScheduledSequence],
        drawing: Sequence[int],
        state_indexes: Sequence[int],
        token_ids: Tensor,
        logits: Tensor,
    ) -> GpuStep:
        count = len(drawing)
        found.append((token_ids[:count].cpu().clone(), logits[:count].cpu().clone()))
        return finish(scheduled, drawing, state_indexes, token_ids, logits)

    runner._finish = record  # type: ignore[method-assign]
    return found


@pytest.mark.parametrize("cache_dtype", ["auto", "fp8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_graphs_give_the_bits_of_steps_without(
    dtype: str, cache_dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_checkpoint("qwen3_wide_heads", tmp_path, seed=1)
    captured = engine_on("cuda", folder, dtype=dtype, cache_dtype=cache_dtype)
    for graphs in (DecodeGraphs, MixedGraphs):
        monkeypatch.setattr(graphs, "capture", lambda *_: None)
    eager = engine_on("cuda", folder, dtype=dtype, cache_dtype=cache_dtype)
    steps = [recorded_steps(engine) for engine in (captured, eager)]
    found, expected = (tokens(run(engine, mixed_requests())) for engine in (captured, eager))
    assert found == expected
    assert len(steps[0]) == len(steps[1]) > 30
    for (token_ids, logits), (other_ids, other_logits) in zip(*steps, strict=True):
        assert torch.equal(token_ids, other_ids)
        assert torch.equal(logits, other_logits)


@pytest.mark.parametrize("name", WITH_KERNELS)
def test_bfloat16_logits_are_as_close_as_transformers_own(name: str, tmp_path: Path) -> None:
    folder = make_checkpoint(name, tmp_path, seed=1)
    config = DecoderConfig.from_folder(folder)
    model = load_model(folder, config, ModelOptions(torch.bfloat16, torch.device("cuda")))
    assert model.kernels == "gpu"
    token_ids = prompt(150, seed=5)
    exact, theirs = (
        reference_logits(folder, token_ids, dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    for chunks in ([150], [70, 64, 8, 1, 1, 6]):
        found = our_logits(model, token_ids, chunks).cpu()
        assert relative_error(found, exact) <= 1.25 * relative_error(theirs, exact)


def said(results: dict[str, RequestOutput]) -> np.ndarray:
    """All log-probabilities, of prompts and of what was drawn."""
    found = []
    for result in results.values():
        assert result.info is not None
        found += [position.token.logprob for position in result.info.prompt_logprobs[1:]]
        found += [p.token.logprob for output in result.outputs for p in output.logprobs]
    return np.array(found)


def test_a_cache_of_8_bits_changes_little(tmp_path: Path) -> None:
    """Its log-probabilities of prompts and of tokens that it has to draw."""
    folder = make_checkpoint("qwen3_grouped", tmp_path, seed=1)
    params = GREEDY.clone(logprobs=0, prompt_logprobs=0, allowed_token_ids=(7,))
    generator = torch.Generator().manual_seed(3)
    prompts = [random_prompt(length, generator) for length in (3, 40, 100)]
    exact, rounded = (
        said(
            run(
                engine_on("cuda", folder, cache_dtype=cache_dtype),
                [Request(str(number), each, params) for number, each in enumerate(prompts)],
            )
        )
        for cache_dtype in ("auto", "fp8")
    )
    assert len(exact) == len(rounded) == 3 + 40 + 100 - 3 + 3 * 32
    difference = np.abs(exact - rounded)
    assert 0 < difference.mean() < 0.1 * exact.std()


@pytest.mark.parametrize(
    "params", [GREEDY, SEEDED, SEEDED.clone(n=2)], ids=["greedy", "seeded", "n"]
)
def test_speculation_changes_no_token(params: SamplingParams, tmp_path: Path) -> None:
    folder = make_checkpoint("qwen3_grouped", tmp_path, seed=6)
    # Among few tokens the same pairs come again, so there is something to guess.
    few = params.clone(allowed_token_ids=(30, 31, 32, 33), max_tokens=48)
    generator = torch.Generator().manual_seed(3)
    prompts = [random_prompt(length, generator) * 3 for length in (2, 5, 11)]
    numbers_of_steps, found = [], []
    for speculation in ("none", "ngram"):
        engine = engine_on("cuda", folder, speculation=speculation)
        for number, each in enumerate(prompts):
            engine.add_request(Request(str(number), each, few, seed=9))
        results = {str(number): RequestOutput() for number in range(len(prompts))}
        numbers_of_steps.append(0)
        while engine.has_unfinished_requests():
            for output in engine.step():
                results[output.request_id].add(output)
            numbers_of_steps[-1] += 1
        found.append(tokens(results))
    assert found[0] == found[1]
    assert numbers_of_steps[1] < numbers_of_steps[0]


@pytest.mark.parametrize("speculation", ["none", "ngram"])
@pytest.mark.parametrize("seed", range(3))
def test_a_tiny_pool_serves_all(seed: int, speculation: str, tmp_path: Path) -> None:
    """Requests of every kind that come, fork and go at random; each ends, and all blocks return."""
    folder = make_checkpoint("qwen3_grouped", tmp_path, seed=1)
    engine = engine_on("cuda", folder, 9, dtype="bfloat16", speculation=speculation)
    random = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    kinds = [
        GREEDY,
        SEEDED.clone(n=3, max_tokens=20),
        SEEDED.clone(repetition_penalty=1.2, bad_words_token_ids=((5, 6),)),
        SEEDED.clone(logprobs=2, prompt_logprobs=1, top_p=0.9, max_tokens=5),
        GREEDY.clone(allowed_token_ids=(30, 31, 32), min_tokens=3, stop_token_ids=(31,)),
    ]
    results: dict[str, RequestOutput] = {}
    for step in range(400):
        if step < 200 and random.random() < 0.3:
            name = f"request {step}"
            params = kinds[int(random.integers(len(kinds)))]
            results[name] = RequestOutput()
            engine.add_request(Request(name, random_prompt(1 + step % 70, generator), params))
        unfinished = [name for name, result in results.items() if not result.finished]
        if unfinished and random.random() < 0.1:
            parent, name = unfinished[int(random.integers(len(unfinished)))], f"fork {step}"
            try:
                branches = [Branch(SEEDED.clone(max_tokens=4), number) for number in range(2)]
                engine.fork_request(parent, 0, name, branches)
            except NotFoundError:
                pass  # it has no continuation that runs
            else:
                results[name] = RequestOutput()
        elif unfinished and random.random() < 0.1:
            name = unfinished[int(random.integers(len(unfinished)))]
            for output in engine.abort_request(name):
                results[name].add(output)
        for output in engine.step():
            results[output.request_id].add(output)
    for _ in range(2000):
        if not engine.has_unfinished_requests():
            break
        for output in engine.step():
            results[output.request_id].add(output)
    check_integrity(engine.scheduler)
    load = engine.load()
    assert load.num_running == load.num_waiting == 0
    assert load.num_free_kv_blocks == engine.info.num_kv_blocks
    assert all(result.finished for result in results.values())
    outputs = [output for result in results.values() for output in result.outputs]
    assert {output.finish_reason for output in outputs} >= {FinishReason.LENGTH, FinishReason.ABORT}
