"""What speculation brings and costs: decoding with it and without, in turns, on one model.

    python -m benchmarks.micro.speculation [--model qwen3-0.6b] [--quantization int8] [--batch 1]

Three texts, decoded greedily after their prompts:

- edit: the prompt is a file, and the answer the file with about one token in 16 beginning a change,
  in which one to three tokens are replaced, put in or left out. No token occurs twice in the file,
  so a guess is wrong only at a change; real code also repeats itself elsewhere.
- new: no two tokens of it have been there before, so there is nothing to guess.
- misleading: each four tokens of the answer are in the prompt, followed by something else each
  time. Nothing is worse for guesses by lookup.

The model has the shape that is named and is made to say these texts, see
`benchmarks.harness.copying_checkpoint`; a step of it takes as long as any. The engine runs in this
process, prompts are computed before the clock starts. The clock's and the processor's times are
medians of the repeats, and the quotients those of neighbouring turns.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.harness import machine
from benchmarks.harness.copying_checkpoint import copying_checkpoint
from benchmarks.harness.random_checkpoint import CONFIGS, default_cache
from benchmarks.micro.edited_texts import Text, make_texts
from engine_service.config import (
    QUANTIZATIONS,
    CacheConfig,
    EngineConfig,
    ModelConfig,
    SchedulerConfig,
)
from engine_service.core.outputs import ModelRunner, ModelRunnerOutput, SchedulerOutput
from engine_service.core.request import Request
from engine_service.engine.llm_engine import LLMEngine
from engine_service.runner.build import build_runner
from folovllm.model_info import ModelInfo
from folovllm.sampling_params import SamplingParams


@dataclass(slots=True)
class Turn:
    """One decoding of a text."""

    wall: float
    cpu: float
    tokens: int
    draws: int
    """Each brings one token, and one more for each of its drafts that is right."""
    drafts: int


@dataclass(frozen=True, slots=True)
class Result:
    """What the turns of one text came to."""

    text: str
    batch: int
    tokens_per_second_without: float
    tokens_per_second_with: float
    ratio: float
    """By the clock."""
    cpu_ratio: float
    """Of the processor's time, which other programs lengthen less."""
    accepted: float
    """Share of the drafts that were right."""
    tokens_per_step: float
    """Of one sequence."""


class CountingRunner:
    """A ModelRunner that counts drafts, and the parts of steps in which a sequence draws."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self.draws = 0
        self.drafts = 0

    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        """See ModelRunner."""
        self.draws += sum(bool(scheduled.sample_indexes) for scheduled in output.scheduled)
        self.drafts += sum(len(scheduled.draft_token_ids) for scheduled in output.scheduled)
        return self._runner.execute(output)


@dataclass(slots=True)
class Bench:
    """One engine with speculation and one without, on the same model."""

    engines: dict[str, LLMEngine]
    counter: CountingRunner

    @classmethod
    def build(cls, args: argparse.Namespace, folder: Path) -> "Bench":
        """Loads the model once; both engines use its cache, one after the other."""
        model = ModelConfig(str(folder), device=args.device, quantization=args.quantization)
        num_tokens = 10 * args.tokens * args.batch
        cache = CacheConfig(num_blocks=num_tokens // 16 + 1, enable_prefix_caching=False)
        configs = {
            speculation: EngineConfig(model, cache, SchedulerConfig(speculation=speculation))
            for speculation in ("none", "ngram")
        }
        built = build_runner(configs["none"], folder, show_progress=True)
        info = ModelInfo(
            model_id=args.model,
            vocab_size=built.decoder_config.vocab_size,
            max_model_len=built.max_model_len,
            num_kv_blocks=built.num_blocks,
            block_size=built.block_size,
        )
        counter = CountingRunner(built.runner)
        engines = {name: LLMEngine(counter, config, info) for name, config in configs.items()}
        return cls(engines, counter)

    def measure(self, text: Text, batch: int, repeats: int) -> Result:
        """Decodes a text in turns A B A B, after one turn each to warm up."""
        turns: dict[str, list[Turn]] = {name: [] for name in self.engines}
        for number in range(repeats + 1):
            for name in self.engines:
                turn = self._decode(name, text, batch)
                if number:
                    turns[name].append(turn)
        return _result(text, batch, turns["none"], turns["ngram"])

    def _decode(self, name: str, text: Text, batch: int) -> Turn:
        engine, num_tokens = self.engines[name], len(text.continuation) - 1
        params = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)
        for number in range(batch):
            engine.add_request(Request(str(number), text.prompt, params))
        found = [engine.scheduler.find_unfinished(str(number), 0) for number in range(batch)]
        seqs = [seq for seq in found if seq is not None]
        while not all(seq.num_output_tokens for seq in seqs):
            engine.step()
        left = batch * num_tokens - sum(seq.num_output_tokens for seq in seqs)
        self.counter.draws = self.counter.drafts = 0
        started, started_cpu = time.perf_counter(), time.process_time()
        while engine.has_unfinished_requests():
            engine.step()
        wall, cpu = time.perf_counter() - started, time.process_time() - started_cpu
        for seq in seqs:
            assert seq.token_ids[seq.num_prompt_tokens :] == text.continuation[1:]
        return Turn(wall, cpu, left, self.counter.draws, self.counter.drafts)


def main() -> None:
    """Prints the table, or JSON."""
    args = _parse_args()
    torch.set_num_threads(args.threads)
    texts = make_texts(args.tokens)
    said = [text.continuation for text in texts]
    folder = copying_checkpoint(f"says-{args.tokens}", args.model, said, args.cache)
    bench = Bench.build(args, folder)
    results = (bench.measure(text, args.batch, args.repeats) for text in texts)
    if args.json:
        print(json.dumps([asdict(result) for result in results]))
        return
    print(machine.describe())
    setting = f"quantization {args.quantization}, batch {args.batch}, threads {args.threads}"
    print(f"\n{args.model}, {setting}")
    names = ("tokens/s without", "with", "ratio", "CPU ratio", "accepted", "tokens/step")
    print(f"{'text':<12}" + "".join(f"{name:>18}" for name in names))
    for each in results:
        numbers = list(asdict(each).values())[2:]
        line = f"{each.text:<12}" + "".join(f"{number:>18.2f}" for number in numbers)
        print(line, flush=True)


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=CONFIGS, default="qwen3-0.6b")
    parser.add_argument("--quantization", choices=QUANTIZATIONS, default="none")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=1, help="equal requests at once")
    parser.add_argument("--tokens", type=int, default=256, help="of each answer (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each (%(default)s)")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="(%(default)s)")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _result(text: Text, batch: int, without: list[Turn], with_it: list[Turn]) -> Result:
    def rate(turns: list[Turn]) -> float:
        return statistics.median(turn.tokens / turn.wall for turn in turns)

    last = with_it[-1]
    return Result(
        text.name,
        batch,
        rate(without),
        rate(with_it),
        statistics.median(a.wall / b.wall for a, b in zip(without, with_it, strict=True)),
        statistics.median(a.cpu / b.cpu for a, b in zip(without, with_it, strict=True)),
        (last.tokens - last.draws) / last.drafts if last.drafts else 0.0,
        last.tokens / last.draws,
    )


if __name__ == "__main__":
    main()
