"""How long a grammar's token mask takes, a step and a sequence, at a full vocabulary.

    python -m benchmarks.micro.grammar_masks --model FOLDER --vocab-size 151936

For each structured output: the time to compile; that of each mask over outputs walked at random, by
the clock and by the thread's own processor time, which other programs on the machine do not touch;
and that of taking a token. Each walk starts with a new matcher, as each request does.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import machine
from engine_service.structured_output.bitmask_filler import BitmaskFiller
from engine_service.structured_output.grammar_compiler import Grammar, GrammarCompiler
from folovllm.model_files import DEMO_MODEL
from folovllm.sampling_params import StructuredOutput

_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "role": {"enum": ["admin", "editor", "reader"]},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 4},
        "contact": {
            "anyOf": [
                {"type": "null"},
                {
                    "type": "object",
                    "properties": {"email": {"type": "string", "format": "email"}},
                    "required": ["email"],
                    "additionalProperties": False,
                },
            ]
        },
    },
    "required": ["name", "age", "role", "contact"],
    "additionalProperties": False,
}
_LARK = """
start: sum
sum: product (("+" | "-") product)*
product: atom (("*" | "/") atom)*
atom: /[1-9][0-9]*/ | "(" sum ")"
"""
OUTPUTS = {
    "json_schema": StructuredOutput("json_schema", json.dumps(_PERSON)),
    "json_object": StructuredOutput("json_object", True),
    "regex": StructuredOutput("regex", r"([A-Z][a-z]{2,12} ){2,8}\([0-9]{4}-[0-9]{2}-[0-9]{2}\)"),
    "choice": StructuredOutput("choice", tuple(f"option number {i}" for i in range(500))),
    "grammar": StructuredOutput("grammar", _LARK),
}


@dataclass(frozen=True, slots=True)
class Walks:
    """Seconds of each mask, by the clock and of the processor, and of each accepted token."""

    masks: list[float] = field(default_factory=list)
    masks_cpu: list[float] = field(default_factory=list)
    accepts: list[float] = field(default_factory=list)


def measure_walks(grammar: Grammar, compiler: GrammarCompiler, num_masks: int) -> Walks:
    """Walks until there are `num_masks`; a walk ends where it must, or after 200 tokens."""
    rng = np.random.default_rng(0)
    row = np.empty(compiler.vocabulary.num_words, dtype=np.int32)
    walks = Walks()
    matcher = grammar.matcher()
    while len(walks.masks) < num_masks:
        start, start_cpu = time.perf_counter(), time.thread_time()
        matcher.fill_bitmask(row)
        walks.masks_cpu.append(time.thread_time() - start_cpu)
        walks.masks.append(time.perf_counter() - start)
        if matcher.must_stop or len(walks.masks) % 200 == 0:
            matcher = grammar.matcher()
            continue
        token_id = _choose(row, compiler.vocabulary.eos_token_ids, rng)
        start = time.perf_counter()
        matcher.accept(token_id)
        walks.accepts.append(time.perf_counter() - start)
    return walks


def measure_batch(
    grammars: Sequence[Grammar], compiler: GrammarCompiler, batch_size: int, num_steps: int
) -> list[float]:
    """Seconds of each step's masks for a batch that mixes all grammars."""
    rng = np.random.default_rng(0)
    filler = BitmaskFiller()
    matchers = [grammars[i % len(grammars)].matcher() for i in range(batch_size)]
    bitmask = np.empty((batch_size, compiler.vocabulary.num_words), dtype=np.int32)
    times = []
    for _ in range(num_steps):
        start = time.perf_counter()
        filler.fill_bitmasks(matchers, bitmask)
        times.append(time.perf_counter() - start)
        for i, matcher in enumerate(matchers):
            if matcher.must_stop:
                matchers[i] = grammars[i % len(grammars)].matcher()
            else:
                matcher.accept(_choose(bitmask[i], compiler.vocabulary.eos_token_ids, rng))
    return times


def _choose(row: NDArray[np.int32], eos_token_ids: Sequence[int], rng: np.random.Generator) -> int:
    """A random id that is allowed and does not end the output."""
    allowed = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little"))
    return int(rng.choice(allowed[~np.isin(allowed, eos_token_ids)]))


def _quantiles(seconds: Sequence[float]) -> str:
    median, p99 = np.quantile(seconds, [0.5, 0.99]) * 1e3
    return f"{median:9.3f} {p99:9.3f}"


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        "benchmarks.micro.grammar_masks", description="Token mask times."
    )
    add = parser.add_argument
    add("--model", type=Path, default=DEMO_MODEL, help="a folder with tokenizer.json (embedded)")
    add("--vocab-size", type=int, default=2048, help="the model's; 151936 for Qwen3 (%(default)s)")
    add("--eos-token-ids", type=int, nargs="+", default=[2041, 2039], help="151645 for Qwen3")
    add("--masks", type=int, default=2000, help="masks for each grammar (%(default)s)")
    add("--batch-size", type=int, default=64, help="sequences of the batch (%(default)s)")
    args = parser.parse_args()

    compiler = GrammarCompiler(args.model, args.vocab_size, args.eos_token_ids)
    start = time.perf_counter()
    compiler.vocabulary.load()
    print(machine.describe())
    print(f"vocabulary of {args.vocab_size} ids, loaded in {time.perf_counter() - start:.2f} s\n")
    columns = ("compile", "median", "p99", "cpu med.", "cpu p99", "acc. med.", "acc. p99")
    print(f"{'ms':12} " + " ".join(f"{column:>9}" for column in columns))
    grammars = []
    for name, output in OUTPUTS.items():
        start = time.perf_counter()
        grammars.append(compiler.compile(output))
        compiled = (time.perf_counter() - start) * 1e3
        walks = measure_walks(grammars[-1], compiler, args.masks)
        figures = tuple(map(_quantiles, (walks.masks, walks.masks_cpu, walks.accepts)))
        print(f"{name:12} {compiled:9.3f} {' '.join(figures)}")
    times = measure_batch(grammars, compiler, args.batch_size, num_steps=100)
    print(f"{f'batch of {args.batch_size}':12} {'':9} {_quantiles(times)}")


if __name__ == "__main__":
    main()
