"""One run of the GPU benchmark: jobs, engine after engine, within the run's time.

A process that hangs is ended, and one that dies, as after an illegal access of the device's memory,
is replaced by one that goes on with the next job.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.gpu.plan import GpuPlan
from benchmarks.gpu.requests import TEMPERATURE, requests
from benchmarks.harness.cases import Case
from benchmarks.harness.ceilings import Bounds, Ceilings
from benchmarks.harness.engine_name import EngineName
from benchmarks.harness.model_shape import ModelShape
from benchmarks.harness.open_loop import Arrival, tokens_per_s
from benchmarks.peers.contender import NO_GPU, Contender, ContenderError
from benchmarks.peers.peer import PeerConfig
from benchmarks.results.measurement import Measurement
from benchmarks.results.recorder import Recorder

SECTIONS = ("decode", "prefill", "kernels", "requests", "first-token", "transformers", "torch")
_OPENING_S = 180.0
"""Loads, tunes, captures."""
_CALL_S = 90.0
"""A call that takes longer is given up: what it compiles may take forever."""
_OURS, _REPLAY = "folovllm", "graph-replay"
_WARM_UPS = 3
"""Of whoever compiles."""
_NAME_LENGTH = 48
"""Of a kernel; templates have long ones."""


class Job(NamedTuple):
    """A case, and what measures it."""

    case: str
    work: Callable[[Contender], Iterable[Measurement]]


def run_jobs(
    engine: str,
    open_contender: Callable[[float], Contender],
    jobs: Sequence[Job],
    deadline: float,
    recorder: Recorder,
) -> None:
    """Records what the jobs measure, and why one fails.

    No job begins after the deadline, a time of the monotonic clock. `open_contender` gets the
    seconds that it may take; if it fails, no other job is tried.
    """
    contender: Contender | None = None
    for job in jobs:
        left = deadline - time.monotonic()
        if left <= 0:
            reason = "left out: the run's time is over"
            recorder.add([Measurement.failed(job.case, engine, reason)])
            continue
        opened = contender is not None
        try:
            contender = contender or open_contender(min(_OPENING_S, left))
            opened = True
            contender.timeout = min(_CALL_S, left)
            recorder.add(job.work(contender))
        except ContenderError as error:
            reason = str(error).splitlines()[-1]
            recorder.add([Measurement.failed(job.case, engine, reason)])
            if contender is not None:
                contender.close(patience=0.0)
                contender = None
            if not opened:
                return
    if contender is not None:
        contender.close()


class GpuComparison:
    """What is measured with: checkpoint, sizes, ceilings, and the time that is left."""

    def __init__(
        self, folder: Path, plan: GpuPlan, small: bool, deadline: float, recorder: Recorder
    ) -> None:
        """Measures the ceilings. Small runs on the CPU. Raises ContenderError."""
        self._plan, self._small = plan, small
        self._deadline, self._recorder = deadline, recorder
        self._config = PeerConfig(
            model=str(folder),
            threads=torch.get_num_threads(),
            max_num_seqs=plan.max_num_seqs,
            max_model_len=plan.max_model_len,
            kv_tokens=plan.kv_tokens,
        )
        with self._open("machine", _OPENING_S) as machine:
            measured = machine.call("ceilings", read_mib=plan.read_mib, gemm_size=plan.gemm_size)
        ceilings = recorder.results.ceilings = Ceilings(*measured)
        self._bounds = Bounds(ceilings, ModelShape.from_folder(folder))

    def run(self, sections: Sequence[str]) -> None:
        """Records what the sections measure."""
        jobs = [*self._engine_jobs(sections)]
        if jobs:
            self._run(_OURS, [Job("ready after", self._ready), *jobs])
        for peer, cases in self._plan.peer_cases.items():
            if peer.partition("-")[0] in sections:
                self._run(peer, [Job(case.name, partial(self._generate, case)) for case in cases])

    def _run(self, engine: str, jobs: Sequence[Job]) -> None:
        run_jobs(engine, partial(self._open, engine), jobs, self._deadline, self._recorder)

    def _open(self, engine: str, timeout: float) -> Contender:
        contender = Contender(
            EngineName(engine),
            self._config,
            environment=NO_GPU if self._small else {},
            timeout=timeout,
        )
        contender.resume()
        if contender.version:
            self._recorder.results.versions[engine] = contender.version
        return contender

    def _engine_jobs(self, sections: Sequence[str]) -> Iterator[Job]:
        plan = self._plan
        for case in plan.cases:
            if case.timed in sections:
                measure = self._decode if case.timed == "decode" else self._generate
                yield Job(case.name, partial(measure, case))
        if "kernels" in sections:
            for case in plan.profiled:
                yield Job(f"kernels of {case.name}", partial(self._kernels, case))
        if "requests" in sections:
            yield Job(f"{plan.num_requests} requests", self._requests)
        if "first-token" in sections:
            streams = f"{plan.streams.batch} x {plan.streams.prompt_tokens}"
            name = f"{plan.newcomer_tokens} beside {streams}"
            yield Job(name, partial(self._first_token, name))

    def _ready(self, contender: Contender) -> list[Measurement]:
        return [Measurement("ready after", _OURS, "s", (contender.ready_s,))]

    def _decode(self, case: Case, contender: Contender) -> list[Measurement]:
        """Steps of our engine, and on a GPU what it would reach if the host took no time."""
        turns = [
            contender.call(
                "decode",
                prompts=case.prompts(turn, self._bounds.shape.vocab_size),
                steps=case.new_tokens - 1,
            )
            for turn in range(self._plan.turns)
        ]
        bound = self._bounds.rate(case, contender.name)
        return [
            Measurement(case.name, engine, "tok/s", rates, bound)
            for engine, rates in zip((_OURS, _REPLAY), zip(*turns, strict=True), strict=False)
        ]

    def _generate(self, case: Case, contender: Contender) -> list[Measurement]:
        """Batches of any engine, after a few that warm up."""
        rates = []
        for turn in range(_WARM_UPS + self._plan.turns):
            prompts = case.prompts(turn, self._bounds.shape.vocab_size)
            rates.append(case.rate(contender.generate(prompts, case.new_tokens)))
        bound = self._bounds.rate(case, contender.name)
        name = str(contender.name)
        return [Measurement(case.name, name, "tok/s", tuple(rates[_WARM_UPS:]), bound)]

    def _requests(self, contender: Contender) -> list[Measurement]:
        """All requests, from the first call to the last token."""
        plan, shape = self._plan, self._bounds.shape
        arrivals = requests(plan.num_requests, *plan.request_tokens, shape.vocab_size)
        warm_up = Case("throughput", plan.max_num_seqs, 8, 8)
        contender.generate(warm_up.prompts(0, shape.vocab_size), warm_up.new_tokens)
        times = contender.serve(arrivals, temperature=TEMPERATURE)
        lengths = [(len(each.prompt_token_ids), each.new_tokens) for each in arrivals]
        num_tokens = sum(new_tokens for _, new_tokens in lengths)
        seconds = self._bounds.ceilings.seconds(shape.generation_bytes(lengths))
        name, rate = f"{plan.num_requests} requests", tokens_per_s(times)
        return [Measurement(name, _OURS, "tok/s", (rate,), bound=num_tokens / seconds)]

    def _first_token(self, name: str, contender: Contender) -> list[Measurement]:
        """Prompts that arrive one by one while others decode, counted from when they are due."""
        plan, vocab_size = self._plan, self._bounds.shape.vocab_size
        streams = plan.streams.prompts(0, vocab_size)
        newcomers = Case("prefill", plan.num_newcomers, plan.newcomer_tokens).prompts(0, vocab_size)
        arrivals = [Arrival(0.0, prompt, plan.streams.new_tokens) for prompt in streams]
        for index, prompt in enumerate(newcomers):
            arrivals.append(Arrival(plan.newcomers_s * (index + 4), prompt, 1))
        times = contender.serve(arrivals)
        first_due = arrivals[len(streams)].time_s
        gaps = [
            after - before
            for stream in times[: len(streams)]
            for before, after in pairwise(stream)
            if after > first_due
        ]
        waits = [
            (each[0] - arrival.time_s) * 1e3
            for arrival, each in list(zip(arrivals, times, strict=True))[len(streams) :]
        ]
        found = [Measurement(f"first token of {name}", _OURS, "ms", tuple(waits))]
        if gaps:
            longest = (max(gaps) * 1e3,)
            found.append(Measurement(f"longest gap of the others, {name}", _OURS, "ms", longest))
        return found

    def _kernels(self, case: Case, contender: Contender) -> list[Measurement]:
        """The kernels of a decode step, replayed as in use."""
        prompts = case.prompts(-1, self._bounds.shape.vocab_size)
        seconds = contender.call("profile", prompts=prompts, steps=case.new_tokens - 1)
        return [
            Measurement(f"{case.name}: {kernel[:_NAME_LENGTH]}", _OURS, "us", (each * 1e6,))
            for kernel, each in seconds.items()
        ]
