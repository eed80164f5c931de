"""Scores a checkpoint skill by skill: greedy answers to inputs the training never saw.

Run as `python -m tools.demo_model.evaluate FOLDER [--count N] [--quantization none|int8|int4]`;
prints a table. Answers are transformers' in float32, or with --quantization our own engine's.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer

from engine_service.config import QUANTIZATIONS
from folovllm.sampling_params import SamplingParams
from folovllm_client.llm.llm import LLM
from tools.demo_model.sample import Draw, Sample
from tools.demo_model.skills import arithmetic, facts, records, stories, tool_calls

MAX_NEW_TOKENS = 220
BATCH = 32
Make = Callable[[Draw], Sample]
Judge = Callable[[Sample, str], bool]


@dataclass(frozen=True)
class Test:
    """A row of the table: what is asked, when an answer is right, how often it should be."""

    name: str
    target: float
    make: Make
    judge: Judge


@dataclass(frozen=True)
class Score:
    """How a test went, with the first wrong answers."""

    test: Test
    right: int
    asked: int
    wrong: tuple[str, ...]

    @property
    def share(self) -> float:
        """The share of right answers."""
        return self.right / self.asked


def evaluate(
    folder: Path, count: int, quantization: str | None = None, seed: int = 7
) -> list[Score]:
    """Score the checkpoint with `count` questions a test.

    Transformers answers, or our engine where a quantization is given, `none` included.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if quantization is None:
        tokenizer.padding_side = "left"
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        answer = partial(complete, model, tokenizer)
    else:
        llm = LLM(str(folder), device="cpu", quantization=quantization)
        answer = partial(complete_by_engine, llm, tokenizer)
    scores = []
    for test in TESTS:
        draw = Draw(random.Random(seed), held_out=True)
        questions = [test.make(draw) for _ in range(count)]
        if test.name.startswith("facts"):
            questions = all_facts(draw)
        answers = answer(questions)
        pairs = list(zip(questions, answers, strict=True))
        wrong = [(q, a) for q, a in pairs if not test.judge(q, a)]
        shown = tuple(f"{q.messages[-1]['content']} -> {a}" for q, a in wrong[:3])
        scores.append(Score(test, len(pairs) - len(wrong), len(pairs), shown))
    return scores


def table(scores: list[Score]) -> str:
    """The scores as a Markdown table."""
    lines = [
        "| skill, held-out inputs, greedy | target | reached | questions |",
        "|---|---|---|---|",
    ]
    for score in scores:
        lines.append(
            f"| {score.test.name} | {score.test.target:.0%} | {score.share:.1%} | {score.asked} |"
        )
    return "\n".join(lines)


def complete(model: Any, tokenizer: Tokenizer, questions: list[Sample]) -> list[str]:
    """Greedy answers, with special tokens left in, cut after the token that ends them."""
    answers = [""] * len(questions)
    prompts = [prompt(tokenizer, question) for question in questions]
    order = sorted(range(len(questions)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        inputs = tokenizer([prompts[index] for index in chosen], padding=True, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=MAX_NEW_TOKENS,
                temperature=None,
                top_p=None,
                top_k=None,
            )
        for index, row in zip(chosen, output[:, inputs["input_ids"].shape[1] :], strict=True):
            text = str(tokenizer.decode(row))
            answers[index] = text.split("<|endoftext|>")[0]
    return answers


def complete_by_engine(llm: LLM, tokenizer: Tokenizer, questions: list[Sample]) -> list[str]:
    """The same from our engine, with whatever it makes of the weights."""
    prompts = [tokenizer(prompt(tokenizer, question))["input_ids"] for question in questions]
    params = SamplingParams(temperature=0.0, max_tokens=MAX_NEW_TOKENS, repetition_penalty=1.0)
    outputs = llm.generate([{"prompt_token_ids": token_ids} for token_ids in prompts], params)
    texts = [str(tokenizer.decode(output.outputs[0].token_ids)) for output in outputs]
    return [text.split("<|endoftext|>")[0] for text in texts]


def prompt(tokenizer: Tokenizer, sample: Sample) -> str:
    """The sample's prompt, by transformers' own rendering."""
    if sample.plain:
        return sample.plain[0][0]
    rendered = tokenizer.apply_chat_template(
        list(sample.messages),
        tools=list(sample.tools) or None,
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=sample.thinking,
    )
    assert isinstance(rendered, str)
    return rendered


def _sums(digits: int) -> Make:
    def make(draw: Draw) -> Sample:
        return arithmetic.sum_chat(draw, arithmetic.draw_sum(draw, digits))

    return make


def _thinking(draw: Draw) -> Sample:
    makes: list[Make] = [_sums(2), _sums(3), records.record, tool_calls.tool_call]
    return replace(draw.pick(makes)(draw), thinking=True)


def all_facts(draw: Draw) -> list[Sample]:
    """A question for every fact that the model was taught."""
    capitals = [facts.capital_chat(draw, country) for country in facts.CAPITALS]
    return capitals + [facts.fact_chat(draw, question, answer) for question, answer in facts.FACTS]


def _answer(sample: Sample, text: str) -> str | None:
    """What stands after the think block, or None if the answer is not well formed."""
    if not text.endswith("<|im_end|>"):
        return None
    text = text.removesuffix("<|im_end|>")
    if sample.thinking:
        if not text.startswith("<think>\n") or text.count("<think>") != 1:
            return None
        before, mark, text = text.partition("\n</think>\n\n")
        if not mark:
            return None
    return None if "think>" in text else text


def _right_sum(sample: Sample, text: str) -> bool:
    answer = _answer(sample, text)
    return answer is not None and answer.endswith(f" = {sample.expected}.")


def _right_text(sample: Sample, text: str) -> bool:
    answer = _answer(sample, text)
    return answer is not None and bool(answer == sample.expected)


def _right_json(sample: Sample, text: str) -> bool:
    try:
        return bool(json.loads(_answer(sample, text) or "") == sample.expected)
    except json.JSONDecodeError:
        return False


def _right_call(sample: Sample, text: str) -> bool:
    found = re.fullmatch(r"<tool_call>\n(.*)\n</tool_call>", _answer(sample, text) or "")
    try:
        return found is not None and bool(json.loads(found[1]) == sample.expected)
    except json.JSONDecodeError:
        return False


def _right_story(sample: Sample, text: str) -> bool:
    answer = _answer(sample, text)
    if answer is None:
        return False
    sentences = re.split(r"(?<=[.?!]) ", answer)
    hero = re.search(rf"(named|called) {re.escape(str(sample.expected))}\b", answer)
    return hero is not None and len(set(sentences)) == len(sentences) > 3


def _right_thinking(sample: Sample, text: str) -> bool:
    judges: dict[str, Judge] = {
        "arithmetic": _right_sum,
        "json": _right_json,
        "tool call": _right_call,
    }
    return judges[sample.skill](sample, text)


TESTS = (
    Test("addition and subtraction, two digits", 0.99, _sums(2), _right_sum),
    Test("addition and subtraction, three digits", 0.95, _sums(3), _right_sum),
    Test("facts (seen)", 1.0, facts.capital, _right_text),
    Test("JSON object parses and is right", 0.98, records.record, _right_json),
    Test("right tool and arguments", 0.97, tool_calls.tool_call, _right_call),
    Test("a sentence from the tool's answer", 0.97, tool_calls.tool_answer, _right_text),
    Test("thinking on: one block, answer right", 0.97, _thinking, _right_thinking),
    Test("stories: end, no repetition, hero's name", 0.95, stories.named_story, _right_story),
)


def main() -> None:
    """Read the command line, print the table and a few wrong answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--quantization", choices=QUANTIZATIONS)
    given = parser.parse_args()
    scores = evaluate(given.folder, given.count, given.quantization)
    print(table(scores))
    for score in scores:
        for line in score.wrong:
            print(f"\nwrong, {score.test.name}: {line}")


if __name__ == "__main__":
    main()
