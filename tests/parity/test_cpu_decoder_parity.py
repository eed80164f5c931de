"""The CPU kernels' decoder: close to transformers, and the same bits however it is asked."""

from pathlib import Path

import pytest
import torch

from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine_service.core.request import Request
from engine_service.engine.factory import build_engine
from engine_service.kernels.cpu.library import Context
from engine_service.models.cpu_decoder import CpuDecoder
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.loader import load_cpu_decoder
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams
from support.builders.cpu_kernels import library
from support.builders.tiny_models import KERNEL_MODELS, VOCAB_SIZE, make_checkpoint, reference_model
from support.integrity import check_integrity
from support.twins.decoder_logits import load, our_logits, prompt, reference_logits, relative_error

BFLOAT16 = torch.bfloat16
STEPS = 40
PARAMS = SamplingParams(temperature=0.0, max_tokens=STEPS, ignore_eos=True)
# How far behind float32's pick ours may be; random weights' logits are so flat that three may tie.
NEAR_TIE_NATS = 0.125
NEAR_TIE_RANK = 3


@pytest.fixture(scope="module", params=KERNEL_MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    library()
    return make_checkpoint(
        request.param, tmp_path_factory.mktemp(request.param), seed=1, dtype=BFLOAT16
    )


def error_of(folder: Path, quantization: str) -> float:
    """Of our logits of two prompts, together."""
    model = load(folder, BFLOAT16, quantization)
    assert isinstance(model, CpuDecoder)
    prompts = [prompt(150, seed) for seed in range(2)]
    found = torch.cat([our_logits(model, each, [100, 49, 1]) for each in prompts])
    return relative_error(
        found, torch.cat([reference_logits(folder, each, torch.float32) for each in prompts])
    )


def test_logits_are_as_close_as_transformers_own(folder: Path) -> None:
    prompts = [prompt(150, seed) for seed in range(2)]
    exact, theirs = (
        torch.cat([reference_logits(folder, each, dtype) for each in prompts])
        for dtype in (torch.float32, BFLOAT16)
    )
    assert error_of(folder, "none") <= 1.25 * relative_error(theirs, exact)


def test_rows_that_nobody_wants_change_nothing(folder: Path) -> None:
    model, token_ids, chunks = load(folder, BFLOAT16), prompt(150, 3), [70, 40, 39, 1]
    whole = our_logits(model, token_ids, chunks)
    starts = [0, 70, 110, 149]
    for choose in (lambda n: [n - 1], lambda n: list(range(0, n, 7)), lambda n: []):
        some = our_logits(model, token_ids, chunks, choose)
        rows = [start + row for start, n in zip(starts, chunks, strict=True) for row in choose(n)]
        assert torch.equal(some, whole[rows])


def test_fewer_bits_cost_more(folder: Path) -> None:
    exact, int8, int4 = (error_of(folder, kind) for kind in ("none", "int8", "int4"))
    assert exact < int8 < int4
    assert int8 < 0.1 and int4 < 0.6


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
def test_bits_do_not_depend_on_chunks_or_threads(folder: Path, quantization: str) -> None:
    token_ids = prompt(170, seed=2)
    config = DecoderConfig.from_folder(folder)
    models = [
        load_cpu_decoder(folder, config, Context(library(), threads), quantization)
        for threads in (1, 3)
    ]
    whole = our_logits(models[0], token_ids, [170])
    assert whole.isfinite().all()
    for chunks in ([170], [64, 64, 42], [1] * 7 + [93, 1, 69], [169, 1]):
        for model in models:
            assert torch.equal(our_logits(model, token_ids, chunks), whole)


def prompts() -> list[list[int]]:
    """16 of 3 to 78 tokens; every third begins as the one before it."""
    made = [prompt(3 + 5 * number, seed=100 + number) for number in range(16)]
    for number in range(2, 16, 3):
        made[number][: len(made[number - 1])] = made[number - 1]
    return made


def answers_of(
    folder: Path, cache: CacheConfig, scheduler: SchedulerConfig, *, at_once: bool
) -> tuple[list[list[int]], int]:
    """Greedy answers to all prompts, at once or one after the other, and the preemptions."""
    model = ModelConfig(str(folder), dtype="bfloat16", device="cpu")
    engine = build_engine(EngineConfig(model, cache, scheduler))
    results = [RequestOutput() for _ in prompts()]
    for number, token_ids in enumerate(prompts()):
        engine.add_request(Request(str(number), token_ids, PARAMS))
        while engine.has_unfinished_requests() and (not at_once or number == len(results) - 1):
            for output in engine.step():
                results[int(output.request_id)].add(output)
    check_integrity(engine.scheduler)
    outputs = [result.outputs[0] for result in results]
    preemptions = sum(output.metrics.preemptions for output in outputs if output.metrics)
    return [output.token_ids for output in outputs], preemptions


LOADS = {
    "all at once": (CacheConfig(num_blocks=200), SchedulerConfig()),
    "chunked": (
        CacheConfig(num_blocks=200, enable_prefix_caching=False),
        SchedulerConfig(max_num_seqs=9, max_num_batched_tokens=23),
    ),
    "preempted": (
        CacheConfig(num_blocks=24),
        SchedulerConfig(max_num_seqs=16, max_num_batched_tokens=70),
    ),
}


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[list[int]]:
    cache = CacheConfig(num_blocks=60, enable_prefix_caching=False)
    return answers_of(folder, cache, SchedulerConfig(), at_once=False)[0]


@pytest.mark.parametrize("name", LOADS)
def test_greedy_tokens_are_the_same_alone_and_under_load(
    folder: Path, alone: list[list[int]], name: str
) -> None:
    answers, preemptions = answers_of(folder, *LOADS[name], at_once=True)
    assert answers == alone
    assert (preemptions > 0) == (name == "preempted")
    # Models that repeat themselves would prove little.
    assert len({token for answer in alone for token in answer}) > VOCAB_SIZE // 4


@torch.inference_mode()
def test_greedy_tokens_leave_transformers_only_at_near_ties(
    folder: Path, alone: list[list[int]]
) -> None:
    model = reference_model(folder)
    for token_ids, answer in zip(prompts(), alone, strict=True):
        logits = model(torch.tensor([token_ids + answer])).logits[0, len(token_ids) - 1 : -1]
        logprobs = logits.log_softmax(-1)
        picked = logprobs.gather(-1, torch.tensor(answer)[:, None])
        gaps, ranks = logprobs.amax(-1) - picked[:, 0], (logprobs >= picked).sum(-1)
        assert float(gaps.max()) <= NEAR_TIE_NATS and int(ranks.max()) <= NEAR_TIE_RANK


@pytest.mark.parametrize("stored", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["qwen3_tied_wide", "qwen3_sharded", "llama_biases_wide"])
def test_checkpoints_in_other_types_are_rounded(
    name: str, stored: torch.dtype, tmp_path: Path
) -> None:
    library()
    folder = make_checkpoint(name, tmp_path / "stored", seed=1, dtype=stored)
    rounded = tmp_path / "rounded"
    reference_model(folder, BFLOAT16).save_pretrained(rounded)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (name == "qwen3_sharded")
    token_ids = prompt(50, seed=3)
    for quantization in ("none", "int4"):
        found, expected = (
            our_logits(load(each, BFLOAT16, quantization), token_ids, [50])
            for each in (folder, rounded)
        )
        assert torch.equal(found, expected)
