"""The quick start, and what an in-process model makes of parameters that no server takes."""

import runpy
from pathlib import Path

import pytest
import torch

from folovllm import (
    LLM,
    ModelConfig,
    ModelLoader,
    NoEffectWarning,
    SamplingParams,
    get_model_and_tokenizer,
)

EXAMPLE = Path(__file__).parents[2] / "examples" / "m0_basic_usage.py"
GREEDY = SamplingParams(temperature=0.0, max_tokens=6)
STORY = "Once upon a time"


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(dtype="float32", device="cpu")


def test_the_quick_start_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [str(EXAMPLE)])
    with pytest.warns(NoEffectWarning, match="nothing that a model brings is ever exec") as said:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert len(said) == 1
    model, sequence, text = capsys.readouterr().out.splitlines()
    assert "torch.float16" in model
    number, _, length = sequence.removeprefix("Sequence ").partition(": ")
    assert number == "0" and int(length.removesuffix(" tokens")) > 5
    assert text == "你好，请介绍一下自己"


def test_a_device_may_be_given_beside_the_config() -> None:
    config = ModelConfig(dtype="float16", device="cuda:99")
    model, tokenizer = get_model_and_tokenizer(config, device="cpu")
    assert model.device == torch.device("cpu") and model.dtype == torch.float16
    assert tokenizer.decode(tokenizer.encode(STORY)) == STORY


def test_a_loader_loads_the_parts_by_themselves() -> None:
    loader = ModelLoader(ModelConfig(dtype="float32", device="cpu", deterministic=True))
    assert (loader.folder / "config.json").is_file()
    assert loader.load_tokenizer().vocab_size > 1000
    assert loader.load_model().dtype == torch.float32


def test_half_precision_generates_on_a_cpu(llm: LLM) -> None:
    half = LLM(dtype="float16", device="cpu")
    assert half.model_info.dtype == "float16"
    (ours,), (exact,) = (each.generate(STORY, GREEDY) for each in (half, llm))
    assert ours.outputs[0].token_ids[:3] == exact.outputs[0].token_ids[:3]


def test_text_is_left_out_on_request(llm: LLM) -> None:
    plain, silent = llm.generate([STORY] * 2, [GREEDY, GREEDY.clone(detokenize=False)])
    assert plain.outputs[0].text and silent.outputs[0].text == ""
    assert plain.outputs[0].token_ids == silent.outputs[0].token_ids


def test_a_prompt_is_cut_to_its_last_tokens(llm: LLM) -> None:
    whole = llm.get_tokenizer().encode(STORY)
    cut, given = llm.generate(
        [STORY, {"prompt_token_ids": whole[-2:]}], [GREEDY.clone(truncate_prompt_tokens=2), GREEDY]
    )
    assert len(whole) > 2 and cut.prompt_token_ids == whole[-2:]
    assert cut.outputs[0].token_ids == given.outputs[0].token_ids


def test_log_probabilities_have_the_text_of_their_tokens(llm: LLM) -> None:
    (output,) = llm.generate(STORY, GREEDY.clone(logprobs=2, prompt_logprobs=1))
    completion = output.outputs[0]
    assert [
        position[token_id].decoded_token
        for position, token_id in zip(completion.logprobs, completion.token_ids, strict=True)
    ] == [llm.get_tokenizer().decode(token_id) for token_id in completion.token_ids]
    assert all(position[next(iter(position))].rank == 1 for position in completion.logprobs)
    prompt = output.prompt_logprobs
    assert prompt is not None and prompt[0] is None and len(prompt) == len(output.prompt_token_ids)
    assert prompt[1] is not None
    second = prompt[1][output.prompt_token_ids[1]]
    assert second.logprob is not None and second.decoded_token == llm.get_tokenizer().decode(
        output.prompt_token_ids[1]
    )


def test_a_cached_prompt_is_counted_and_its_time_measured(llm: LLM) -> None:
    prompt = {"prompt_token_ids": [*range(100, 140)]}
    (first,) = llm.generate(prompt, GREEDY)
    (again,) = llm.generate(prompt, GREEDY)
    assert first.num_cached_tokens == 0 and again.num_cached_tokens == 32
    assert again.metrics is not None and 0 < again.metrics.time_to_first_token < 60
