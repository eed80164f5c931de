"""The parts of the CPU benchmark that compute and print."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.cpu import command
from benchmarks.cpu.comparison import Setup, compare
from benchmarks.cpu.plan import full, quick
from benchmarks.harness.batch_clock import Timing
from benchmarks.harness.cases import Case
from benchmarks.harness.ceilings import Bounds, Ceilings
from benchmarks.harness.engine_name import EngineName
from benchmarks.harness.model_shape import ModelShape, bytes_of_weight
from benchmarks.harness.plan import Plan
from benchmarks.harness.random_checkpoint import MODELS, checkpoint, write_checkpoint
from benchmarks.results.recorder import Recorder
from engine_service.device import resolve_device
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.loader import load_model
from engine_service.models.model_options import ModelOptions
from folovllm.errors import ConfigError
from folovllm.model_files import DEMO_MODEL
from tokenizer_service.text.tokenizer import Tokenizer

QWEN3_0_6B = ModelShape(
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151936,
)
CEILINGS = Ceilings(bytes_per_s=45.6e9, operations_per_s=797e9)
OURS = EngineName("folovllm")
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 300,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


def test_bytes_and_operations_of_qwen3() -> None:
    # 0.596 billion weights, 2 bytes each; 112 KiB of KV a token.
    bf16 = bytes_of_weight("folovllm", "bf16")
    assert QWEN3_0_6B.weight_bytes(bf16) == pytest.approx(1.192e9, rel=1e-3)
    assert QWEN3_0_6B.kv_bytes == 28 * 2 * 8 * 128 * 2
    assert QWEN3_0_6B.decode_bytes((100, 50), bf16) - QWEN3_0_6B.weight_bytes(bf16) == (
        150 * QWEN3_0_6B.kv_bytes
    )
    # The layers' 0.44 billion weights for each token; the rest is attention and one output row.
    assert QWEN3_0_6B.prefill_operations((512,)) == pytest.approx(512 * 0.881e9, rel=0.08)


@pytest.mark.parametrize(
    "engine, rate",
    [
        ("folovllm", 38.2),
        ("folovllm:int8", 76.4),
        ("llama_cpp:int8", 72.0),  # 8.5 bits
        ("folovllm:int4", 113.0),  # 4.5 bits, the output layer 8
        ("llama_cpp:int4", 136.0),
    ],
)
def test_decoding_is_bound_by_reading(engine: str, rate: float) -> None:
    name = EngineName.parse(engine)

    bound = Bounds(CEILINGS, QWEN3_0_6B).rate(Case("decode", 1, 1, 1), name)

    assert bound == pytest.approx(rate, rel=0.01)


def test_large_batches_are_bound_by_computing() -> None:
    bound = Bounds(CEILINGS, QWEN3_0_6B).rate(Case("decode", 1000, 1, 1), OURS)

    assert bound == pytest.approx(797e9 / (2 * QWEN3_0_6B.matrix_elements))


def test_prefill_has_a_bound_in_bf16_alone() -> None:
    bounds, case = Bounds(CEILINGS, QWEN3_0_6B), Case("prefill", 1, 128, 1)

    assert bounds.rate(case, OURS) == pytest.approx(890, rel=0.03)
    assert bounds.rate(case, EngineName("folovllm", "int8")) is None


def test_the_shape_is_read_from_the_config() -> None:
    assert ModelShape.from_folder(DEMO_MODEL).head_dim == 64


def test_a_case_says_what_a_timing_means() -> None:
    timing = Timing(prefill_s=0.5, decode_rate=40.0, total_s=2.0)

    assert Case("prefill", 2, 100, 1).rate(timing) == 400
    assert Case("decode", 2, 100, 9).rate(timing) == 40
    assert Case("throughput", 2, 100, 9).rate(timing) == 9


def test_prompts_differ_by_turn_and_not_by_call() -> None:
    case = Case("decode", 2, 5, 3)

    assert case.prompts(1, 100) == case.prompts(1, 100) != case.prompts(2, 100)
    assert [len(prompt) for prompt in case.prompts(0, 100)] == [5, 5]


def test_a_short_turn_warms_up_what_a_decode_case_times() -> None:
    decode, prefill = Case("decode", 32, 128, 17), Case("prefill", 1, 512, 1)

    assert decode.warm_up == Case("decode", 32, 16, 3)
    assert prefill.warm_up == prefill


def test_prompts_may_be_the_same() -> None:
    case = Case("decode", 2, 5, 3, same_prompt=True)

    first, second = case.prompts(1, 100)
    assert first == second and len(first) == 5


@pytest.mark.parametrize("plan", [full(rate=1.0, turns=3), quick()])
def test_plans_leave_room_for_what_they_hold(plan: Plan) -> None:
    assert plan.kv_tokens is not None
    for case in (*plan.cases, *plan.served):
        assert plan.max_num_seqs >= case.batch
        # A prompt that is shared is in the cache once; no peer has to hold it.
        prompts = case.prompt_tokens if case.same_prompt else case.num_prompt_tokens
        assert plan.kv_tokens >= prompts + case.batch * case.new_tokens
    assert plan.max_model_len >= max(each.prompt_tokens + each.new_tokens for each in plan.cases)
    for load in plan.loads:
        assert plan.max_num_seqs >= load.num_requests
        tokens = load.prompt_tokens[1] + load.new_tokens[1]
        assert plan.max_model_len >= tokens
        assert plan.kv_tokens >= load.num_requests * tokens


def test_cases_are_picked_by_how_their_names_begin() -> None:
    plan = full(rate=1.0, turns=3)

    some = plan.pick(["decode 32", "throughput"])
    assert [case.name for case in (*some.cases, *some.served)] == [
        "decode 32 x 128",
        "throughput 32 x 16",
    ]
    assert not some.loads
    assert [load.name for load in plan.pick(["*requests"]).loads] == ["1 requests/s"]
    with pytest.raises(ConfigError, match=r"'train'; there are decode 32 x 128"):
        plan.pick(["decode", "train"])


def test_engines_of_one_weight_format_are_a_class() -> None:
    peers = tuple(map(EngineName.parse, ("vllm", "openvino:int4", "openvino:int8")))
    setup = Setup(DEMO_MODEL, ("bf16", "int8"), peers, {}, threads=1, cache=DEMO_MODEL)

    assert [list(map(str, names)) for names in setup.classes()] == [
        ["folovllm", "vllm"],
        ["folovllm:int8", "openvino:int8"],
        ["openvino:int4"],
    ]


def test_names_of_engines() -> None:
    assert EngineName.parse("openvino:int8") == EngineName("openvino", "int8")
    assert str(EngineName.parse("openvino:int8")) == "openvino:int8"
    assert str(EngineName.parse("vllm")) == "vllm"


def test_a_random_checkpoint_can_be_served(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_checkpoint(CONFIG, folder)

    config = DecoderConfig.from_folder(folder)
    device = resolve_device("cpu")
    decoder = load_model(folder, config, ModelOptions(torch.bfloat16, device))
    tokenizer = Tokenizer.from_folder(folder)

    assert decoder.dtype == torch.bfloat16
    assert tokenizer.vocab_size == 300
    ids = tokenizer.encode("Hello, world")
    assert tokenizer.decode(ids) == "Hello, world"


def test_the_embedded_model_needs_no_cache(tmp_path: Path) -> None:
    assert MODELS[0] == "demo"
    assert checkpoint("demo", tmp_path / "none") == DEMO_MODEL
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "argument",
    [
        "--peers=gpt",
        "--peers=vllm:int3",
        "--peer-python=vllm",
        "--model=other",
        "--formats=int3",
        "--json=no/such/folder/file",
        "--turns=many",
    ],
)
def test_wrong_options_are_refused_at_once(
    argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main([argument])

    assert "usage:" in capsys.readouterr().err


def test_more_engines_than_the_memory_holds_are_refused_at_once(tmp_path: Path) -> None:
    peers = (EngineName("vllm"),) * 1_000_000
    setup = Setup(DEMO_MODEL, ("bf16",), peers, {}, threads=1, cache=tmp_path)
    recorder = Recorder("cpu", "demo", None)

    with pytest.raises(ConfigError, match="fewer peers"):
        compare(setup, quick(), recorder)

    assert recorder.results.ceilings is None
