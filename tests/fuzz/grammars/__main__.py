"""Asks for thousands of generated grammars: `python -m fuzz.grammars --count 4000 --seed 1`."""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

from engine_service.structured_output.grammar_compiler import GrammarCompiler
from engine_service.structured_output.rehearsed_compiler import RehearsedCompiler
from folovllm.model_files import DEMO_MODEL
from folovllm.serving.memory.settling import keep_large_blocks_apart
from fuzz.grammars.campaign import Campaign, Findings
from fuzz.grammars.texts import generate

_MAX_START_SECONDS = 1.0
_MAX_GROWTH = 1.10


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz.grammars", description=__doc__)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", type=Path, default=DEMO_MODEL, help="a folder with config.json")
    return parser.parse_args()


async def _run(arguments: argparse.Namespace) -> Findings:
    config = json.loads((arguments.model / "config.json").read_text())
    eos = config["eos_token_id"]
    eos_token_ids = eos if isinstance(eos, list) else [eos]
    compiler = GrammarCompiler(arguments.model, config["vocab_size"], eos_token_ids)
    rehearsed = RehearsedCompiler(compiler)
    try:
        return await Campaign(compiler, rehearsed).run(generate(arguments.seed, arguments.count))
    finally:
        rehearsed.close()


def main() -> int:
    """Prints the figures; the exit status is 1 if one of them is not as it must be."""
    arguments = _read_arguments()
    # So that memory is what is held, and not the holes that the blocks of a build leave.
    keep_large_blocks_apart()
    began = time.perf_counter()
    findings = asyncio.run(_run(arguments))
    print(f"{arguments.count} grammars in {time.perf_counter() - began:.0f} s", flush=True)
    print(*findings.lines(), sep="\n")
    if max(findings.starts, default=0.0) > _MAX_START_SECONDS:
        findings.faults.append("what never queues took more than a second to start")
    if findings.memory[1] > _MAX_GROWTH * findings.memory[0]:
        findings.faults.append("memory has not come back")
    print("FAILED: " + findings.faults[-1] if findings.faults else "passed")
    return bool(findings.faults)


if __name__ == "__main__":
    sys.exit(main())
