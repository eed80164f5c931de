"""Commands for comparing an engine of several ranks with one of a single rank.

Ranks other than the first are processes that `spawn` starts; they import only what they need.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch._C._distributed_c10d import FileStore

from engine_service.config import EngineConfig
from engine_service.core.request import Branch, Request
from engine_service.distributed.broadcast import BroadcastChannel
from engine_service.distributed.leader import Leader, follow
from engine_service.engine.commands import Abort, Fork, Generate, Score
from engine_service.engine.factory import build_engine
from engine_service.engine.score_requests import ScoreRequest
from engine_service.layers.parallel import TensorParallel
from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.parameters.structured_output import StructuredOutput
from folovllm.sampling_params import SamplingParams
from support.processes.commanded_engine import CommandedEngine
from support.processes.rank_threads import make_group

GREEDY = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)
SEEDED = GREEDY.clone(temperature=0.9, top_k=50, top_p=0.9, seed=11)
DIGITS = SamplingParams(
    temperature=1.0,
    seed=3,
    max_tokens=24,
    structured_output=StructuredOutput("regex", "[0-9]{4,30}x"),
)


def join(store_path: Path, rank: int, size: int) -> tuple[TensorParallel, BroadcastChannel]:
    store = FileStore(str(store_path), size)
    parallel = TensorParallel(rank, size, make_group(store, "model", rank, size))
    return parallel, BroadcastChannel(make_group(store, "commands", rank, size))


def _follow_all(store_path: Path, rank: int, size: int, configs: Sequence[EngineConfig]) -> None:
    torch.set_num_threads(1)
    parallel, channel = join(store_path, rank, size)
    for config in configs:
        follow(build_engine(config, parallel=parallel), channel)


@contextmanager
def led_engines(
    store_path: Path, configs: Sequence[EngineConfig]
) -> Iterator[Iterator[CommandedEngine]]:
    """Engines of two ranks, one after another; the second rank is a process of its own."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_follow_all, args=(store_path, 1, 2, configs), daemon=True)
    process.start()

    def engines() -> Iterator[CommandedEngine]:
        parallel, channel = join(store_path, 0, 2)
        for config in configs:
            engine, leader = build_engine(config, parallel=parallel), Leader(channel)
            engine.warm_up()
            yield CommandedEngine(engine, leader.step)
            leader.stop()

    try:
        yield engines()
        process.join(timeout=60)
        assert process.exitcode == 0
    finally:
        process.kill()


def play(engine: CommandedEngine) -> dict[str, RequestOutput]:
    """Requests that come and go, by the number of the step before which something happens."""
    generator = torch.Generator().manual_seed(5)
    prompts = [torch.randint(2, 250, (n,), generator=generator).tolist() for n in (37, 21, 50)]

    def add(name: str, prompt: list[int], params: SamplingParams) -> None:
        command = Generate(Request(name, prompt, params))
        engine.apply(command, command.make_matchers(engine.engine))

    def fork() -> None:
        branches = tuple(
            Branch(params, seed=9)
            for params in (SEEDED, DIGITS, GREEDY.clone(frequency_penalty=0.2))
        )
        engine.apply(Fork("greedy", 0, "branches", branches, time.monotonic()))

    def score() -> None:
        request = ScoreRequest(prompts[2], [prompts[1][: 3 + i] for i in range(3)])
        engine.apply(Score("scores", request))

    outputs: list[CompletionOutput] = []
    events: dict[int, Callable[[], object]] = {
        0: lambda: add("greedy", prompts[0], GREEDY.clone(logprobs=2, max_tokens=60)),
        2: lambda: add("seeded", prompts[1], SEEDED.clone(n=3)),
        6: lambda: add("prefix", [*prompts[0][:32], 7, 8, 9], GREEDY),
        7: lambda: add("digits", prompts[1], DIGITS),
        9: fork,
        10: score,
        12: lambda: outputs.extend(engine.apply(Abort("seeded", (1,)))),
        14: lambda: add("gone", prompts[2], SEEDED),
        17: lambda: outputs.extend(engine.apply(Abort("gone"))),
        25: lambda: add("again", prompts[0], GREEDY.clone(prompt_logprobs=1)),
    }
    step = 0
    while events or engine.engine.has_unfinished_requests():
        events.pop(step, lambda: None)()
        outputs += engine.step()
        step += 1
    results: dict[str, RequestOutput] = {}
    for output in outputs:
        results.setdefault(output.request_id, RequestOutput()).add(output)
    return results
