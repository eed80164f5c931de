"""The parts of the CPU benchmark that compute and print."""

from pathlib import Path

import pytest
import torch

from benchmarks.cpu import __main__ as cpu
from benchmarks.cpu.bounds import Bounds
from benchmarks.cpu.cases import Case
from benchmarks.cpu.kv_steps import StepCase, ragged
from benchmarks.cpu.plan import Plan, full, quick
from benchmarks.cpu.roofline import Roofline
from benchmarks.cpu.run import Setup, measure
from benchmarks.harness.batch_clock import Timing
from benchmarks.harness.model_shape import ModelShape
from benchmarks.harness.random_checkpoint import MODELS, checkpoint, write_checkpoint
from benchmarks.harness.weight_formats import weight_bytes
from benchmarks.peers.contender import missing
from benchmarks.peers.contender_name import ContenderName
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
ROOFLINE = Roofline(read_gb_per_s=45.6, bf16_gflop_per_s=797, float32_gflop_per_s=201)
OURS = ContenderName("folovllm")
CONFIG: dict[str, object] = {
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
    bf16 = weight_bytes("folovllm", "bf16")
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
    name = ContenderName.parse(engine)

    bound = Bounds(ROOFLINE, QWEN3_0_6B).case(Case("decode", 1, 1, 1), name)

    assert bound == pytest.approx(rate, rel=0.01)


def test_large_batches_are_bound_by_computing() -> None:
    bound = Bounds(ROOFLINE, QWEN3_0_6B).case(Case("decode", 1000, 1, 1), OURS)

    assert bound == pytest.approx(797e9 / (2 * QWEN3_0_6B.matrix_elements))


def test_prefill_has_a_bound_in_bf16_alone() -> None:
    bounds, case = Bounds(ROOFLINE, QWEN3_0_6B), Case("prefill", 1, 128, 1)

    assert bounds.case(case, OURS) == pytest.approx(890, rel=0.03)
    assert bounds.case(case, ContenderName("folovllm", "int8")) is None


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


def test_ragged_and_uniform_steps_have_the_same_number_of_keys() -> None:
    spread, uniform = ragged(32, 16, 2048)

    assert (spread.context_lengths[0], spread.context_lengths[-1]) == (16, 2048)
    assert len(set(uniform.context_lengths)) == 1
    assert sum(spread.context_lengths) == pytest.approx(sum(uniform.context_lengths), abs=32)


def test_sequences_of_a_step_have_blocks_of_their_own() -> None:
    case = StepCase("step", (16, 17, 1))

    tables = [list(each.block_table) for each in case.step().scheduled]

    assert tables == [[0], [1, 2], [3]]
    assert case.num_blocks == 4
    assert [each.num_computed_tokens for each in case.step().scheduled] == [15, 16, 0]


@pytest.mark.parametrize("plan", [full(rate=1.0, turns=3), quick()])
def test_plans_leave_room_for_what_they_hold(plan: Plan) -> None:
    for case in (*plan.cases, *plan.served):
        assert plan.max_num_seqs >= case.batch
        assert plan.max_model_len >= case.prompt_tokens + case.new_tokens
        assert plan.kv_tokens >= case.kv_tokens
    for load in plan.loads:
        assert plan.max_num_seqs >= load.num_requests
        assert plan.max_model_len >= load.max_model_len
        assert plan.kv_tokens >= load.kv_tokens


def test_cases_are_picked_by_how_their_names_begin() -> None:
    plan = full(rate=1.0, turns=3)

    some = plan.pick(["decode 32", "ragged"])
    assert [case.name for case in some.cases] == ["decode 32 x 128"]
    assert [case.name for case in some.steps] == ["ragged 32 x 16 to 2048", "uniform 32 x 1032"]
    assert not some.served and not some.loads
    assert [load.name for load in plan.pick(["*requests"]).loads] == ["1 requests/s"]
    with pytest.raises(ConfigError, match=r"'train'; there are decode 32 x 128"):
        plan.pick(["decode", "train"])


def test_engines_of_one_weight_format_are_a_class() -> None:
    peers = tuple(map(ContenderName.parse, ("vllm", "openvino:int4", "openvino:int8")))
    setup = Setup(DEMO_MODEL, ("bf16", "int8"), peers, {}, threads=1, cache=DEMO_MODEL)

    assert [list(map(str, names)) for names in setup.classes()] == [
        ["folovllm", "vllm"],
        ["folovllm:int8", "openvino:int8"],
        ["openvino:int4"],
    ]


def test_names_of_engines() -> None:
    assert ContenderName.parse("openvino:int8") == ContenderName("openvino", "int8")
    assert str(ContenderName.parse("openvino:int8")) == "openvino:int8"
    assert str(ContenderName.parse("vllm")) == "vllm"


def test_a_peer_that_is_not_there_is_told(tmp_path: Path) -> None:
    vllm = ContenderName("vllm")

    assert "--peer-python vllm=" in missing([vllm], {})[vllm]
    nowhere = str(tmp_path / "python")
    assert missing([vllm], {"vllm": nowhere}) == {vllm: f"{nowhere} has no vllm"}
    assert not missing([ContenderName("transformers")], {})


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
        cpu.main([argument])

    assert "usage:" in capsys.readouterr().err


def test_more_engines_than_the_memory_holds_are_refused_at_once(tmp_path: Path) -> None:
    peers = (ContenderName("vllm"),) * 1_000_000
    setup = Setup(DEMO_MODEL, ("bf16",), peers, {}, threads=1, cache=tmp_path)
    said: list[str] = []

    with pytest.raises(ConfigError, match="fewer peers"):
        next(measure(setup, quick(), said.append))

    assert said == []
