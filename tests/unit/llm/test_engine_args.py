"""Each argument of LLM changes an outcome, warns that it changes none, or is refused."""

import shutil
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch

from folovllm import LLM, EngineArgs, RequestOutput, SamplingParams
from folovllm.errors import ConfigError, InvalidRequestError
from folovllm.model_files import DEMO_MODEL
from folovllm.vllm_names import NoEffectWarning
from folovllm_client.llm.engine_args import EngineOptions
from support.fakes.hub import running_hub

GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
STORY = "Once upon a time there was a brave horse who lived in a garden and liked to sing."


def load(**options: Any) -> LLM:
    return LLM(**{"device": "cpu", "num_gpu_blocks_override": 128, **options})


def refusal(**options: Any) -> str:
    """The line that refuses arguments."""
    with pytest.raises(ConfigError) as refused:
        load(**options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def run(llm: LLM, prompt: str | list[int] = STORY, **changes: Any) -> RequestOutput:
    (output,) = llm.generate(prompt, GREEDY.clone(**changes), use_tqdm=False)
    return output


def outputs_by_step(llm: LLM, prompts: list[str], params: SamplingParams) -> list[int]:
    """How many requests each step has changed."""
    engine = llm.llm_engine
    for number, prompt in enumerate(prompts):
        engine.add_request(f"{number}", prompt, params)
    counts = []
    while engine.has_unfinished_requests():
        counts.append(len(engine.step()))
    return counts


@pytest.fixture
def copied_model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO_MODEL, tmp_path / "model"))


def test_every_argument_has_a_test_here() -> None:
    names = {field.name for field in fields(EngineArgs)}
    assert {f"test_{name}" for name in names} - {*globals()} == set()
    assert {*get_type_hints(EngineOptions)} == names - {"model"}


def test_model(copied_model: Path) -> None:
    assert load(model=str(copied_model)).model_info.model_id == str(copied_model)
    assert refusal(model="./nowhere").startswith("there is no folder ./nowhere")


def test_tokenizer(copied_model: Path) -> None:
    (copied_model / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    tokenizer = load(tokenizer=str(copied_model)).get_tokenizer()
    messages = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "Hi!"
    with (copied_model / "tokenizer.json").open("a") as file:
        file.write("\n")
    message = refusal(tokenizer=str(copied_model))
    assert f"tokenizer {copied_model} is not that of the model demo_model" in message


def fetched_revisions(cache: Path, **options: Any) -> list[str]:
    """What is asked of a hub on the loopback that has the embedded model as org/name."""
    with running_hub(cache) as hub:
        hub.files["org/name"] = {
            path.name: path.read_bytes() for path in DEMO_MODEL.iterdir() if path.is_file()
        }
        load(**options)
    return sorted(path.name for path in (cache / "models--org--name" / "refs").iterdir())


def test_revision(tmp_path: Path) -> None:
    assert fetched_revisions(tmp_path, model="org/name", revision="v2") == ["v2"]
    assert refusal(revision="v2").startswith("revision v2 is of a model on the hub")


def test_tokenizer_revision(tmp_path: Path) -> None:
    revisions = fetched_revisions(tmp_path, tokenizer="org/name", tokenizer_revision="v3")
    assert revisions == ["v3"]


def test_trust_remote_code() -> None:
    with pytest.warns(NoEffectWarning, match="trust_remote_code"):
        load(trust_remote_code=True)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [("half", "float16"), ("float", "float32"), (torch.bfloat16, "bfloat16")],
)
def test_dtype(given: object, dtype: str) -> None:
    assert load(dtype=given).model_info.dtype == dtype


def test_quantization() -> None:
    assert load(quantization="int8").model_info.dtype == "int8"
    assert load(quantization=None).model_info.dtype != "int8"
    expected = "quantization must be one of none, int8, int4, got 'awq'"
    assert refusal(quantization="awq") == expected


def test_max_model_len() -> None:
    llm = load(max_model_len=32)
    assert llm.model_info.max_model_len == 32
    with pytest.raises(InvalidRequestError, match="at most 32"):
        run(llm, [1] * 40)
    assert refusal(max_model_len=0) == "max_model_len must be at least 1, got 0"


def test_device() -> None:
    assert "cuda:99" in refusal(device="cuda:99")


def test_deterministic() -> None:
    """Alone or beside others, in float32, where the products of a batch differ in their bits."""
    llm = load(deterministic=True, dtype="float32", enable_prefix_caching=False)
    alone = run(llm, logprobs=0)
    beside = llm.generate([STORY, "Once", "The"], GREEDY.clone(logprobs=0), use_tqdm=False)[0]
    assert beside.outputs[0].cumulative_logprob == alone.outputs[0].cumulative_logprob
    assert EngineArgs(deterministic=True).engine_config().model.deterministic


def test_tensor_parallel_size() -> None:
    assert refusal(tensor_parallel_size=0) == "tensor_parallel_size must be at least 1, got 0"
    message = refusal(model="Qwen/Qwen3-8B", tensor_parallel_size=2)
    assert message.endswith(
        "torchrun --standalone --nproc-per-node 2 -m engine_service --model Qwen/Qwen3-8B"
    )


def test_gpu_memory_utilization() -> None:
    message = refusal(num_gpu_blocks_override=None, gpu_memory_utilization=1e-9)
    assert "KV cache" in message
    assert refusal(gpu_memory_utilization=1.5) == (
        "gpu_memory_utilization must be in (0, 1], got 1.5"
    )


def test_kv_cache_dtype() -> None:
    assert refusal(kv_cache_dtype="fp8").startswith("kv_cache_dtype fp8 needs")
    expected = "kv_cache_dtype must be one of auto, fp8, got 'fp8_e5m2'"
    assert refusal(kv_cache_dtype="fp8_e5m2") == expected


def test_block_size() -> None:
    assert load(block_size=32).model_info.block_size == 32


def test_num_gpu_blocks_override() -> None:
    assert load(num_gpu_blocks_override=130).model_info.num_kv_blocks == 130
    message = refusal(num_gpu_blocks_override=0)
    assert message == "num_gpu_blocks_override must be at least 1, got 0"


@pytest.mark.parametrize("enabled", [True, False])
def test_enable_prefix_caching(enabled: bool) -> None:
    llm = load(enable_prefix_caching=enabled)
    run(llm)
    assert bool(run(llm).num_cached_tokens) == enabled


def test_max_num_seqs() -> None:
    params = GREEDY.clone(max_tokens=2)
    assert max(outputs_by_step(load(speculation="none"), ["Once", "The"], params)) == 2
    llm = load(speculation="none", max_num_seqs=1)
    assert outputs_by_step(llm, ["Once", "The"], params) == [1, 1, 1, 1]


def test_max_num_batched_tokens() -> None:
    llm = load(max_num_batched_tokens=8, max_num_seqs=1)
    steps = -(-len(llm.get_tokenizer().encode(STORY)) // 8)
    assert steps > 1
    counts = outputs_by_step(llm, [STORY], GREEDY.clone(max_tokens=1))
    assert counts == [0] * (steps - 1) + [1]


def test_speculation() -> None:
    again = GREEDY.clone(max_tokens=16, allowed_token_ids=(265,))
    plain = outputs_by_step(load(speculation="none"), [STORY], again)
    guessed = outputs_by_step(load(speculation="ngram"), [STORY], again)
    assert len(guessed) < len(plain) == 16


def test_seed() -> None:
    def drawn(seed: int | None) -> list[list[int]]:
        llm = load(seed=seed)
        params = GREEDY.clone(temperature=2.0, max_tokens=16)
        return [
            output.outputs[0].token_ids
            for output in llm.generate(["Once", "Once"], params, use_tqdm=False)
        ]

    first = drawn(1)
    assert first == drawn(1) and first[0] != first[1]
    assert first != drawn(2) and drawn(None) != drawn(None)
    assert refusal(seed=-1) == "seed must be at least 0, got -1"


def check_without_effect(name: str, harmless: object, value: object) -> None:
    """A value that asks for what cannot be done here warns; the one that does not, does not."""
    make: Callable[..., EngineArgs] = EngineArgs
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(**{name: harmless})
    with pytest.warns(NoEffectWarning, match=f"^{name}={value!r} has no effect: "):
        make(**{name: value})


def test_enforce_eager() -> None:
    check_without_effect("enforce_eager", False, True)


def test_swap_space() -> None:
    check_without_effect("swap_space", 0, 4)


def test_disable_log_stats() -> None:
    check_without_effect("disable_log_stats", True, False)


def test_an_unknown_argument_is_refused_by_name() -> None:
    message = refusal(enable_lora=True)
    assert message.startswith("enable_lora is not an argument here; docs/vllm.md lists")
    assert "did you mean max_model_len?" in refusal(max_model_length=100)


def test_a_value_of_the_wrong_type_is_said() -> None:
    assert refusal(max_num_seqs="8") == "max_num_seqs must be int or None, got '8'"
    assert refusal(swap_space="4") == "swap_space must be float, got '4'"


def test_none_means_the_default() -> None:
    make: Callable[..., EngineArgs] = EngineArgs
    assert make(**dict.fromkeys(field.name for field in fields(EngineArgs))) == make()
    assert LLM.from_engine_args(EngineArgs(block_size=32)).model_info.block_size == 32


def test_the_chat_template_is_a_text_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("{{ messages[0].content }}?")
    messages = [{"role": "user", "content": "Hi"}]
    for given, prompt in ((file, "Hi?"), (str(file), "Hi?"), ("{{ 1 + 1 }}", "2")):
        (output,) = load(chat_template=given).chat(messages, GREEDY, use_tqdm=False)
        assert output.prompt == prompt
    assert refusal(chat_template="nowhere.jinja").startswith("chat_template nowhere.jinja cannot")
