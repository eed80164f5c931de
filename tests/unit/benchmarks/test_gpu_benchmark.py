"""The parts of the GPU benchmark that compute and print."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu import bytes as gpu_bytes
from benchmarks.gpu.line import Ceilings, Line
from benchmarks.gpu.measures.kernels import kernel_cases
from benchmarks.gpu.measures.requests import drawn_requests
from benchmarks.gpu.peers.padded_batches import in_batches
from benchmarks.gpu.plan import GpuPlan, full, smoke
from benchmarks.gpu.report import duration, main, report
from benchmarks.gpu.results import GpuResults
from benchmarks.gpu.sections import GROUPS, SECTIONS, chosen_groups
from benchmarks.gpu.targets import TARGETS
from benchmarks.harness.model_shape import ModelShape
from folovllm.errors import ConfigError

SHAPE = ModelShape(
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151936,
)
LINES = [
    Line("roofline", "copy", 1e-3, num_bytes=4e9),
    Line("roofline", "matmul", 1e-3, operations=8e11),
    Line("decode", "1 x 128", 0.5e-3, num_bytes=1.2e9, tokens=1),
    Line("decode", "64 x 1024", 2e-3, tokens=64, extras={"host not hidden, %": 3.0}),
    Line("decode", "256 x 1024", 10e-3, num_bytes=28e9, tokens=256),
    Line("requests", "256 requests", 6.0, tokens=133966),
    Line("transformers", "batch 1, eager", 0.02, tokens=1),
    Line("transformers", "batch 1, static cache, compiled", 0.005, tokens=1),
    Line("continuous", "requests, continuous batching", 25.0, tokens=50000, note="weak"),
    Line("kernels", "linear o 1", error="RuntimeError: out of shared memory"),
]


def test_bytes_and_operations_of_kernels() -> None:
    assert gpu_bytes.linear_bytes(1, 1024, 4096) == 2 * (1024 * 4096 + 1024 + 4096)
    assert gpu_bytes.linear_operations(8, 1024, 4096) == 2 * 8 * 1024 * 4096
    # 64 sequences of 8192 tokens: 2.1 GB a layer, and hardly more than their keys and values.
    kv = 64 * 8192 * 2 * 8 * 128 * 2
    queries = 64 * 2 * 16 * 128 * 2
    assert gpu_bytes.attention_bytes(SHAPE, [1] * 64, [8192] * 64) == kv + queries
    assert gpu_bytes.add_rms_norm_bytes(3, 10) == 2 * (4 * 3 * 10 + 10)
    assert gpu_bytes.silu_mul_bytes(3, 10) == 2 * 3 * 3 * 10
    assert gpu_bytes.norm_rope_write_bytes(SHAPE, 1) == 2 * 2 * 32 * 128 + 4 * 128
    assert gpu_bytes.sampling_bytes(2, 100) == 400


@pytest.mark.parametrize("query_len, seq_len", [(1, 5), (3, 3), (2, 6)])
def test_a_query_attends_to_what_is_before_it(query_len: int, seq_len: int) -> None:
    pairs = sum(range(seq_len - query_len + 1, seq_len + 1))
    found = gpu_bytes.attention_operations(SHAPE, [query_len], [seq_len])
    assert found == 4 * 16 * 128 * pairs


def test_bytes_of_steps() -> None:
    assert gpu_bytes.decode_step_bytes(SHAPE, [1024] * 256) == pytest.approx(31.3e9, rel=0.01)
    # Step by step: the first new token comes with the prompt, the next one reads it and 10 more.
    weights, kv = gpu_bytes.decode_step_bytes(SHAPE, []), SHAPE.kv_bytes
    found = gpu_bytes.generation_bytes(SHAPE, [(10, 3), (7, 1)])
    assert found == 3 * weights + (11 + 12) * kv


def test_requests_are_those_of_nano_vllm() -> None:
    requests = drawn_requests(256)
    assert sum(request.new_tokens for request in requests) == 133_966
    assert sum(len(request.prompt) for request in requests) == 142_827
    assert max(max(request.prompt) for request in requests) == 10_000
    lengths = [(len(request.prompt), request.new_tokens) for request in requests]
    # 3.7 s at 4.1 TB/s.
    assert gpu_bytes.generation_bytes(SHAPE, lengths) == pytest.approx(15.1e12, rel=0.02)


def test_padded_batches_begin_in_the_middle() -> None:
    requests = drawn_requests(10, 4, 12)
    batches = in_batches(requests, 3)
    lengths = [[request.new_tokens for request in batch] for batch in batches]
    ordered = sorted(request.new_tokens for request in requests)
    # The tenth would be a batch of another size.
    assert lengths == [ordered[3:6], ordered[6:9], ordered[0:3]]


@pytest.mark.parametrize("plan", [full(), smoke()])
def test_a_plan_fits_the_engine(plan: GpuPlan) -> None:
    batches = [batch for _, batches in plan.decode for batch in batches]
    assert max(batches) <= plan.max_num_seqs
    for context, sizes in plan.decode:
        steps = len(sizes) * (plan.decode_steps + 8)
        # Those whose prompts are done decode while the others' are computed.
        prefill = 2 * sizes[0] * context // plan.max_num_batched_tokens + 2
        assert context + steps + prefill <= plan.max_model_len
        assert list(sizes) == sorted(sizes, reverse=True)
    assert 2 * plan.request_tokens[1] <= plan.max_model_len
    assert max(context for _, context in plan.prefill) < plan.max_model_len


def test_names_of_kernels_are_unique_and_bounded() -> None:
    cases = kernel_cases(SHAPE, full())
    assert len({case.name for case in cases}) == len(cases)
    assert all(case.num_bytes > 0 for case in cases)


def test_targets_name_lines_that_are_measured() -> None:
    lines = [replace(line) for line in LINES]
    found = {(target.name, target.unit): target.value(lines) for target in TARGETS}
    assert found["decode 1 x 128", "tok/s"] == pytest.approx(2000)
    assert found["256 requests", "tok/s"] == pytest.approx(22328, rel=1e-3)
    assert found["decode 256 x 1024", "of copy"] == pytest.approx(0.7)
    # The compiled one is the better of two.
    assert found["decode 1 x 128", "x transformers"] == pytest.approx(10)
    assert found["256 requests", "x transformers"] == pytest.approx(11.16, rel=1e-3)
    assert found["decode 64 x 1024, host", "% not hidden"] == 3.0
    assert found["decode attention 64 x 8192", "of copy"] is None
    by_name = {(target.name, target.unit): target for target in TARGETS}
    assert by_name["decode 1 x 128", "tok/s"].verdict(2000) == "met"
    assert by_name["decode 1 x 128", "tok/s"].verdict(1000) == "missed"
    assert by_name["decode 64 x 1024, host", "% not hidden"].verdict(0.5) == "aim"
    # The names that targets look for are those of the full plan.
    plan = full()
    decode = {(batch, context) for context, batches in plan.decode for batch in batches}
    assert {(1, 128), (64, 1024), (256, 1024)} <= decode
    assert (64, 8192) in plan.attention and plan.num_requests == 256


def test_ceilings_are_of_the_run() -> None:
    ceilings = Ceilings.of(LINES)
    assert ceilings == Ceilings(4e12, 8e14)
    assert ceilings.share_of_copy(LINES[2]) == pytest.approx(0.6)
    assert ceilings.share_of_matmul(LINES[2]) is None
    assert Ceilings.of([]).share_of_copy(LINES[2]) is None


def test_a_report_has_lines_targets_and_remarks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = GpuResults("2026-01-01", "benchmarks.gpu", "qwen3-0.6b", "a GPU", LINES)
    text = report(results)
    assert "4,000 GB/s" in text and "800 TFLOP/s" in text
    assert "continuous, requests, continuous batching: weak" in text
    assert "kernels, linear o 1: RuntimeError: out of shared memory" in text
    assert "x transformers" in text

    path = tmp_path / "results.json"
    results.save(path)
    assert GpuResults.load(path) == results
    main([str(path)])
    assert capsys.readouterr().out.strip() == text
    with pytest.raises(ConfigError):
        GpuResults.load(tmp_path / "none.json")


def test_durations_have_units() -> None:
    assert [duration(each) for each in (2.5, 0.0125, 3.2e-6)] == ["2.50 s", "12.5 ms", "3.20 us"]


def test_sections_share_processes() -> None:
    assert chosen_groups(None) == [tuple(each.name for each in group) for group in GROUPS]
    assert chosen_groups(["torch"]) == [("roofline", "torch")]
    assert chosen_groups(["kernels", "decode"]) == [
        ("roofline", "start", "decode"),
        ("kernels",),
    ]
    assert chosen_groups(["roofline"]) == [("roofline",)]
    assert chosen_groups(None, together=True) == [tuple(SECTIONS)]
    # All together end within what a run may take.
    assert sum(section.seconds for section in SECTIONS.values()) < 10 * 60
