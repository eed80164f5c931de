"""The embedded model does what its card says, through both services, on inputs it never saw."""

import random
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from folovllm import Client, SamplingParams
from folovllm.model_files import DEMO_MODEL
from support.processes.service_processes import ServiceProcess
from tools.demo_model import evaluate
from tools.demo_model.sample import Draw

QUESTIONS = 10
GREEDY = SamplingParams(
    temperature=0.0, max_tokens=220, skip_special_tokens=False, include_stop_str_in_output=True
)


@pytest.fixture(scope="module")
def hf_tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in DEMO_MODEL.iterdir()) <= 8_000_000


def test_transformers_loads_it_unchanged(hf_tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.config.num_attention_heads > model.config.num_key_value_heads
    assert model.config.tie_word_embeddings
    specials = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>")
    tools = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
    for text in (*specials, *tools):
        assert len(hf_tokenizer.encode(text)) == 1


@pytest.mark.parametrize("test", evaluate.TESTS, ids=lambda test: test.name)
def test_skills(test: evaluate.Test, tokenizer: ServiceProcess, hf_tokenizer: Any) -> None:
    draw = Draw(random.Random(11), held_out=True)
    if test.name.startswith("facts"):
        samples = draw.rng.sample(evaluate.all_facts(draw), QUESTIONS)
    else:
        samples = [test.make(draw) for _ in range(QUESTIONS)]
    with Client(tokenizer.address, timeout=60) as client:
        answers = [
            client.generate(evaluate.prompt(hf_tokenizer, sample), GREEDY).outputs[0].text
            for sample in samples
        ]
    wrong = [a for s, a in zip(samples, answers, strict=True) if not test.judge(s, a)]
    # The card has the exact shares; here one of ten may be wrong.
    assert len(wrong) <= 1, wrong


def test_many_scripts_stream_whole_characters(tokenizer: ServiceProcess, hf_tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "你好"}]
    prompt = hf_tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    with Client(tokenizer.address, timeout=60) as client:
        pieces = list(client.stream(prompt, SamplingParams(temperature=0.0, max_tokens=60)))
    text = "".join(piece.text for piece in pieces)
    assert "\ufffd" not in text and not text.isascii()
    ids = [token_id for piece in pieces for token_id in piece.token_ids]
    assert text == hf_tokenizer.decode(ids, skip_special_tokens=True)
