"""`deterministic`: a request's tokens are the same whatever is computed beside it, and how."""

import random
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from engine_service.config import (
    CacheConfig,
    EngineConfig,
    ModelConfig,
    SchedulerConfig,
    parse_args,
)
from engine_service.core.outputs import ScheduledSequence
from engine_service.core.request import Request
from engine_service.engine.factory import build_engine
from engine_service.engine.llm_engine import LLMEngine
from engine_service.layers.attention.deterministic_attention import DeterministicAttention
from engine_service.layers.linear.linear import LinearForm
from engine_service.layers.linear.packing import choose_packing
from engine_service.layers.linear.row_tiles import TILE_ROWS, exact_silu, tiled_linear
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.loader import load_decoder
from engine_service.models.model_options import ModelOptions
from engine_service.runner.input_batch import build_input_batch
from engine_service.runner.kv_cache import allocate_kv_caches
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams
from folovllm_client.launch.service_commands import ServeOptions, service_commands
from support.builders.tiny_models import VOCAB_SIZE, make_checkpoint, reference_model

CPU = torch.device("cpu")
MODEL = "qwen3_grouped"
NUM_REQUESTS = 200
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Answers = list[list[list[int]]]
"""Token ids by request and index."""

# How requests are run: the cache, the scheduler, and how many arrive in a step.
ALONE = (CacheConfig(num_blocks=60, enable_prefix_caching=False), SchedulerConfig(), 0)
LOADS = {
    "all at once": (CacheConfig(num_blocks=800), SchedulerConfig(), NUM_REQUESTS),
    "small chunks, nothing shared": (
        CacheConfig(num_blocks=200, enable_prefix_caching=False),
        SchedulerConfig(max_num_seqs=9, max_num_batched_tokens=23),
        3,
    ),
    "preempted, from the prefix cache": (
        CacheConfig(block_size=8, num_blocks=44),
        SchedulerConfig(max_num_seqs=32, max_num_batched_tokens=70),
        40,
    ),
}


@pytest.fixture(scope="module", params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(dtype: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(MODEL, tmp_path_factory.mktemp(dtype), seed=6, dtype=DTYPES[dtype])


def requests() -> list[Request]:
    """Greedy and sampled ones, n = 1 to 3, 1 to 120 prompt tokens; every third shares a prefix."""
    choice = random.Random(7)
    made: list[Request] = []
    for number in range(NUM_REQUESTS):
        prompt = [choice.randrange(2, VOCAB_SIZE) for _ in range(choice.choice((1, 5, 30, 80)))]
        if number % 3:
            shared = made[number // 3].prompt_token_ids
            prompt = [*shared[: choice.randint(1, len(shared))], *prompt][:120]
        params = SamplingParams(
            n=choice.choice((1, 1, 2, 3)),
            temperature=choice.choice((0.0, 0.5, 1.0, 1.5)),
            top_k=choice.choice((0, 0, 20)),
            top_p=choice.choice((1.0, 0.9)),
            min_p=choice.choice((0.0, 0.05)),
            presence_penalty=choice.choice((0.0, 0.0, 0.7)),
            frequency_penalty=choice.choice((0.0, 0.0, -0.3)),
            repetition_penalty=choice.choice((1.0, 1.0, 1.2)),
            logit_bias=choice.choice(((), (), ((7, 1.5), (9, -2.0)))),
            logprobs=choice.choice((None, None, 2)),
            max_tokens=choice.randint(1, 9),
            seed=number,
        )
        made.append(Request(str(number), prompt, params, seed=number))
    return made


def engine_of(
    folder: Path, dtype: str, cache: CacheConfig, scheduler: SchedulerConfig, deterministic: bool
) -> LLMEngine:
    model = ModelConfig(str(folder), dtype, device="cpu", deterministic=deterministic)
    return build_engine(EngineConfig(model, cache, scheduler))


def answers_of(engine: LLMEngine, arriving: int) -> tuple[Answers, int]:
    """All requests' answers, and preemptions; so many arrive in a step, one by one for 0."""
    waiting = requests()[::-1]
    results = {request.request_id: RequestOutput() for request in reversed(waiting)}
    while waiting or engine.has_unfinished_requests():
        for _ in range(arriving or not engine.has_unfinished_requests()):
            if waiting:
                engine.add_request(waiting.pop())
        for output in engine.step():
            results[output.request_id].add(output)
    outputs = [output for result in results.values() for output in result.outputs]
    preemptions = sum(output.metrics.preemptions for output in outputs if output.metrics)
    return [[each.token_ids for each in r.outputs] for r in results.values()], preemptions


@pytest.fixture(scope="module")
def alone(folder: Path, dtype: str) -> Answers:
    cache, scheduler, arriving = ALONE
    return answers_of(engine_of(folder, dtype, cache, scheduler, True), arriving)[0]


@pytest.mark.parametrize("load", LOADS)
def test_200_requests_draw_the_same_tokens_alone_and_under_load(
    folder: Path, dtype: str, alone: Answers, load: str
) -> None:
    cache, scheduler, arriving = LOADS[load]
    mixed, preemptions = answers_of(
        engine_of(folder, dtype, cache, scheduler, deterministic=True), arriving
    )
    assert [i for i in range(NUM_REQUESTS) if mixed[i] != alone[i]] == []
    assert (preemptions > 0) == load.startswith("preempted")
    # Models that repeat themselves would prove little.
    assert len({token for answer in alone for ids in answer for token in ids}) > VOCAB_SIZE // 2


def test_without_it_the_same_batch_repeats_exactly(folder: Path, dtype: str) -> None:
    cache, scheduler, arriving = LOADS["preempted, from the prefix cache"]
    first, again = (
        answers_of(engine_of(folder, dtype, cache, scheduler, False), arriving) for _ in range(2)
    )
    assert first == again


@torch.inference_mode()
def logits_of(
    folder: Path,
    token_ids: Sequence[int],
    chunks: Sequence[int],
    dtype: str,
    quantization: str = "none",
) -> Tensor:
    """Logits at every position, computed in chunks, with NaN in every unused slot of the cache."""
    config = DecoderConfig.from_folder(folder)
    options = ModelOptions(DTYPES[dtype], CPU, deterministic=True, quantization=quantization)
    model = load_decoder(folder, config, options)
    caches = allocate_kv_caches(model, 40, 16)
    for tensor in (tensor for cache in caches for tensor in cache[:2]):
        tensor.fill_(float("nan"))
    logits, done = [], 0
    for length in chunks:
        new = token_ids[done : done + length]
        part = ScheduledSequence(0, new, done, range(39, -1, -1), SamplingParams(), 0, ())
        batch = build_input_batch([part], 16, CPU)
        hidden = model(batch.input_ids, batch.positions, caches, batch.metadata)
        logits.append(model.compute_logits(hidden))
        done += length
    return torch.cat(logits)


def test_logits_are_equal_bits_in_any_chunks_and_right(folder: Path, dtype: str) -> None:
    token_ids = [2 + 7 * i % 380 for i in range(200)]
    whole = logits_of(folder, token_ids, [200], dtype)
    for chunks in ([1] * 9 + [64, 65, 1, 61], [127, 1, 72]):
        assert torch.equal(logits_of(folder, token_ids, chunks, dtype), whole)
    with torch.inference_mode():
        expected = reference_model(folder)(torch.tensor([token_ids])).logits[0]
    error = (whole.float() - expected).norm() / expected.norm()
    assert float(error) < (1e-5 if dtype == "float32" else 0.03)


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantized_logits_are_equal_bits_in_any_chunks(
    folder: Path, dtype: str, quantization: str
) -> None:
    token_ids = [2 + 7 * i % 380 for i in range(150)]
    whole = logits_of(folder, token_ids, [150], dtype, quantization)
    assert whole.isfinite().all()
    for chunks in ([1] * 9 + [64, 65, 1, 11], [127, 1, 22]):
        assert torch.equal(logits_of(folder, token_ids, chunks, dtype, quantization), whole)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        *product(["none"], [(64, 128), (96, 64), (64, 384), (1024, 4096), (3072, 1024)]),
        *product(["int8", "int8 weights", "int4"], [(96, 64), (1024, 384)]),
    ],
)
def test_a_row_has_the_same_bits_at_any_index_and_in_any_company(
    dtype: str, kind: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, outputs = shape
    weight = torch.randn(outputs, inputs).to(DTYPES[dtype])
    row = torch.randn(inputs).to(DTYPES[dtype])
    linear: LinearForm = partial(tiled_linear, weight=weight)
    if kind != "none":
        if kind == "int8 weights":
            monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
        packing = choose_packing(weight.dtype, CPU, kind.split()[0], deterministic=True)
        assert packing is not None
        linear = packing(weight, None)
    expected = linear(row[None])[0]
    for count in (2, TILE_ROWS, TILE_ROWS + 1, 2 * TILE_ROWS):
        for index in {0, count // 2, count - 1}:
            rows = 100 * torch.randn(count, inputs).to(DTYPES[dtype])
            rows[index] = row
            assert torch.equal(linear(rows)[index], expected)


def attended(case: Sequence[tuple[int, int]], tokens: Tensor) -> Tensor:
    """Attention of sequence 0 of a batch, in the shape of Qwen3-0.6B's heads.

    `case` has (num_computed_tokens, num_scheduled_tokens) of every sequence; `tokens` holds the
    queries, keys and values of sequence 0, [3, tokens, 16, 128]; the others' are random.
    """
    backend = DeterministicAttention()
    cache = backend.allocate((64, 16, 8, 128), tokens.dtype, CPU)
    free = iter(range(64))
    scheduled, parts = [], []
    for row, (computed, new) in enumerate(case):
        end = computed + new
        own = tokens[:, :end] if row == 0 else torch.randn(3, end, 16, 128).to(tokens.dtype)
        blocks = [next(free) for _ in range(-(-end // 16))]
        for half, values in zip(cache[:2], own[1:, :, :8], strict=True):
            for position in range(computed):
                half[blocks[position // 16], :, position % 16] = values[position]
        scheduled.append(
            ScheduledSequence(row, range(new), computed, blocks, SamplingParams(), 0, (0,))
        )
        parts.append(own[:, computed:])
    batch = build_input_batch(scheduled, 16, CPU)
    query, key, value = torch.cat([parts[row] for row in batch.sampled], dim=1)
    plan = backend.plan(batch.metadata, 8)
    backend.write(key[:, :8], value[:, :8], cache, plan)
    output = backend.forward(query, key[:, :8], value[:, :8], cache, plan)
    start = batch.metadata.query_start_loc[batch.sampled.index(0)]
    return output[start : start + case[0][1]]


@pytest.mark.usefixtures("threads")
def test_attention_has_the_same_bits_in_any_company_and_chunk(dtype: str) -> None:
    tokens = torch.randn(3, 150, 16, 128).to(DTYPES[dtype])
    whole = attended([(0, 150)], tokens)
    for computed, new in ((0, 70), (70, 79), (149, 1), (63, 2), (5, 1)):
        for others in ([], [(3, 1)], [(99, 1), (0, 9), (200, 1), (7, 30), (0, 1)]):
            own = attended([(computed, new), *others], tokens)
            assert torch.equal(own, whole[computed : computed + new])


def test_elementwise_functions_give_equal_bits_in_any_place(dtype: str) -> None:
    values = torch.randn(70_000).to(DTYPES[dtype])
    for function in (exact_silu, torch.exp, torch.cos, torch.sin):
        expected = function(values)
        for start, end in ((0, 1), (0, 17), (3, 40), (65, 3000), (1, 70_000), (69_999, 70_000)):
            assert torch.equal(function(values[start:end]), expected[start:end])
    wide = values.float()
    torch.testing.assert_close(exact_silu(wide), functional.silu(wide))


def test_the_flag_of_serve_reaches_the_engine() -> None:
    for deterministic in (False, True):
        command = service_commands(ServeOptions(deterministic=deterministic))["engine service"]
        arguments = command[command.index("engine_service") + 1 :]
        assert parse_args(arguments).engine.model.deterministic is deterministic
