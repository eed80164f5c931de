"""What parameters cost: a step of rows that all ask for one, over a step of rows that do not.

    python -m benchmarks parameters [--model qwen3-0.6b] [--quantization int8] [--rows 32]

A turn is a step, or the mean of several, of rows with default parameters, then of rows with the
parameter; a line has the ratios of the turns. Rows are greedy, but where a parameter needs a
temperature. Each asks for as much of a parameter as the contract allows.

The engine steps in this process, after any number of tokens: the model attends to 128 at most, so
a longer history costs only what a parameter makes of it. `--clock processor` counts the time that
this process computes; on a machine that does other things too, use it with `--threads 1`.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from random import Random
from statistics import median

import torch

from benchmarks.harness.options import add_json, add_model, make_parser
from benchmarks.harness.random_checkpoint import checkpoint
from benchmarks.micro.parameter_cases import CASES, Case
from benchmarks.micro.short_contexts import ShortContexts
from benchmarks.results.recorder import Recorder
from engine_service.config import (
    QUANTIZATIONS,
    CacheConfig,
    EngineConfig,
    ModelConfig,
    SchedulerConfig,
)
from engine_service.core.request import Request
from engine_service.engine.factory import build_engine
from engine_service.engine.llm_engine import LLMEngine
from folovllm.sampling_params import SamplingParams
from folovllm.serving.memory.settling import settle_memory

_BLOCK_SIZE = 16
# Of prompts, so that setting up many long ones takes few steps.
_STEP_TOKENS = 8192
_CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
_PLAIN = SamplingParams(temperature=0.0, max_tokens=None, ignore_eos=True)


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    parser = make_parser("parameters", __doc__)
    add_model(parser)
    add_json(parser)
    add = parser.add_argument
    add("--quantization", choices=QUANTIZATIONS, default="none", help="(%(default)s)")
    add("--rows", type=int, default=32, help="equal requests at once (%(default)s)")
    add("--turns", type=int, default=5, help="of each (%(default)s)")
    add("--steps", type=int, default=4, help="of a turn (%(default)s)")
    add("--clock", choices=_CLOCKS, default="wall", help="(%(default)s)")
    add("--cases", nargs="*", default=[""], help="cases whose names begin so (all)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    setting = f"{args.model}, quantization {args.quantization}, {args.rows} rows, {args.clock} time"
    recorder = Recorder("parameters", f"{setting}, {args.threads} threads", args.json)
    folder = str(checkpoint(args.model, args.cache))
    model = ModelConfig(folder, device="cpu", quantization=args.quantization)
    stepper = _Stepper(model, args.rows, args.steps, args.clock)
    settle_memory()  # as the service does: a search of everything takes longer than a step
    for name, case in CASES.items():
        if name.startswith(tuple(args.cases)):
            turns = [stepper.turn(case, number) for number in range(args.turns)]
            recorder.add_values(name, "", [asked / plain for plain, asked in turns])
            recorder.say(f"  without {median(plain for plain, _ in turns) * 1e3:.1f} ms")
    recorder.finish()


class _Stepper:
    """An engine whose steps are timed."""

    def __init__(self, model: ModelConfig, rows: int, steps: int, clock: str) -> None:
        self._rows, self._steps, self._clock = rows, steps, _CLOCKS[clock]
        num_blocks = rows * ShortContexts.num_blocks(_BLOCK_SIZE)
        config = EngineConfig(
            model,
            CacheConfig(_BLOCK_SIZE, num_blocks, enable_prefix_caching=False),
            SchedulerConfig(rows, _STEP_TOKENS, speculation="none"),
        )
        self._source = build_engine(config)
        runner = ShortContexts(self._source.runner, rows, _BLOCK_SIZE)
        info = self._source.info
        capacity = rows * info.max_model_len // _BLOCK_SIZE
        self._engine = LLMEngine(runner, config, replace(info, num_kv_blocks=capacity))
        self._engine.warm_up()
        self._names = map(str, count())

    def turn(self, case: Case, number: int) -> tuple[float, float]:
        """Seconds of a step without the parameters and with them; which is first alternates."""
        without = replace(case, params={})
        if number % 2:
            asked = self._step(case, number)
            return self._step(without, number), asked
        return self._step(without, number), self._step(case, number)

    def _step(self, case: Case, number: int) -> float:
        params = _PLAIN.clone(**case.params)
        names = [next(self._names) for _ in range(self._rows)]
        for row, name in enumerate(names):
            token_ids = case.token_ids(Random(self._rows * number + row))
            half = len(token_ids) // 2
            request = Request(name, token_ids, params, seed=row, num_parent_output_tokens=half)
            self._engine.add_request(request, self._source.make_matcher(params))
        waiting = {*names} if not case.of_prompts else set()
        while waiting:
            waiting -= {output.request_id for output in self._engine.step() if output.token_ids}
        steps = 1 if case.of_prompts else self._steps
        started = self._clock()
        outputs = [self._engine.step() for _ in range(steps)]
        seconds = (self._clock() - started) / steps
        for step in outputs:
            assert {output.request_id for output in step if output.token_ids} == {*names}
        for name in names:
            self._engine.abort_request(name)
        return seconds
