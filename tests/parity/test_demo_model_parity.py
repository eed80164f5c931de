"""On the embedded model our greedy answers are transformers', token for token, in float32."""

import itertools
import random
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from folovllm import LLM, SamplingParams
from folovllm.model_files import DEMO_MODEL
from tools.demo_model import evaluate
from tools.demo_model.sample import Draw

NUM_PROMPTS = 200
MAX_TOKENS = 100
BATCH = 50


def prompts(tokenizer: Any) -> list[list[int]]:
    draw = Draw(random.Random(3), held_out=True)
    makes = itertools.cycle(test.make for test in evaluate.TESTS)
    samples = [make(draw) for make in itertools.islice(makes, NUM_PROMPTS)]
    return [tokenizer.encode(evaluate.prompt(tokenizer, sample)) for sample in samples]


def reference(tokenizer: Any, batch: list[list[int]]) -> list[list[int]]:
    """transformers' answers, end token included, prompts of similar lengths together."""
    model: Any = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    tokenizer.padding_side = "left"
    ends = set(model.generation_config.eos_token_id)
    answers: dict[int, list[int]] = {}
    numbers = sorted(range(len(batch)), key=lambda number: len(batch[number]))
    for start in range(0, len(numbers), BATCH):
        chosen = numbers[start : start + BATCH]
        inputs = tokenizer.pad({"input_ids": [batch[n] for n in chosen]}, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=MAX_TOKENS,
                temperature=None,
                top_p=None,
                top_k=None,
            )
        answered = output[:, inputs["input_ids"].shape[1] :].tolist()
        for number, row in zip(chosen, answered, strict=True):
            end = next((i + 1 for i, token_id in enumerate(row) if token_id in ends), len(row))
            answers[number] = row[:end]
    return [answers[number] for number in range(len(batch))]


def test_greedy_answers_are_equal() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    batch = prompts(tokenizer)
    llm = LLM(dtype="float32", device="cpu")
    params = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in batch], params)
    ours = [output.outputs[0].token_ids for output in outputs]
    assert ours == reference(tokenizer, batch)
