"""Overload: four times as many requests as can be served, without regard for how it goes.

The engine has the real scheduler and a model that costs nothing, paced so that both services and
their callers take at most half of the machine: what is seen then comes of decisions, not of a lack
of processors. Capacity is measured first, by callers who wait for their answers. Then requests
arrive at random (Poisson), and nobody who is refused returns, but for one in a hundred: a probe
comes again, under its request_id, at the time that it was told.
"""

import asyncio
import os
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from chaos.callers.ask import params, prompt
from chaos.checks.verdicts import Report
from chaos.inside.fake_model import expected_tokens
from chaos.processes.site import Site, front_end_stub, running_site
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2

FACTOR = 4.0
MIN_GOODPUT = 0.92
MAX_FIRST_TOKEN, MAX_REFUSAL, MAX_DELAY = 2.0, 0.1, 10.0
MIN_FIRST_RETURNS = 0.9
MAX_MACHINE_SHARE = 0.5
_PROBES = 0.01
_MAX_NUM_SEQS, _NUM_TOKENS, _PROMPT_TOKENS = 16, 20, 16
_STEP_SECONDS = 0.025
_FLAGS = ("--max-num-seqs", str(_MAX_NUM_SEQS), "--num-blocks", "2048")
_FAKE_FLAGS = ("--device", "cpu", "--speculation", "none")
_VOCAB_SIZE = 2048
_WARM_UP_SHARE, _CAPACITY_SHARE = 0.1, 0.25
_DETAILS, _PUSHBACK = "grpc-status-details-bin", "grpc-retry-pushback-ms"


@dataclass(slots=True)
class Attempt:
    """One call, and what became of it. Times are the monotonic clock's."""

    started: float = field(default_factory=time.monotonic)
    first_at: float | None = None
    ended: float | None = None
    code: grpc.StatusCode | None = None
    details: str = ""
    delay: float | None = None
    """Seconds that it was told to wait, if it was refused."""
    pushback: float | None = None
    """The same, as its metadata say."""
    token_ids: list[int] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        """Whether it was told to come again later."""
        return self.code is grpc.StatusCode.RESOURCE_EXHAUSTED


@dataclass(slots=True)
class Run:
    """All calls of a run, with those of probes that came a second time apart."""

    firsts: list[Attempt] = field(default_factory=list)
    returns: list[Attempt] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def completed(self, since: float, until: float) -> int:
        """Requests that were answered in full between two moments."""
        return sum(
            each.code is grpc.StatusCode.OK
            and each.ended is not None
            and since <= each.ended < until
            for each in [*self.firsts, *self.returns]
        )


class Callers:
    """Sends requests that all cost the same."""

    def __init__(self, stub: Any, seed: int) -> None:
        self.run = Run()
        self._stub, self._seed = stub, seed
        self._numbers = count()

    async def one_after_the_other(self, width: int, until: float) -> None:
        """So many callers, each of whom waits for its answer."""

        async def caller() -> None:
            while time.monotonic() < until:
                await self._send(next(self._numbers))

        await asyncio.gather(*(caller() for _ in range(width)))

    async def at_random(self, rate: float, until: float) -> None:
        """So many a second, whoever has been answered; gives up at the end what is not."""
        rng = random.Random(self._seed)
        running: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while (due := due + rng.expovariate(rate)) < until:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            is_probe = rng.random() < _PROBES
            task = asyncio.create_task(self._caller(next(self._numbers), is_probe))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.sleep(max(0.0, until - time.monotonic()))
        left = [*running]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _caller(self, number: int, is_probe: bool) -> None:
        first = await self._send(number)
        if is_probe and first.refused and first.delay is not None:
            await asyncio.sleep(first.delay)
            await self._send(number, self.run.returns)

    async def _send(self, number: int, kept: list[Attempt] | None = None) -> Attempt:
        ids = prompt(f"{self._seed} {number}", _PROMPT_TOKENS)
        request = messages.GenerateRequest(
            request_id=f"overload {self._seed} {number}",
            token_ids=types_pb2.TokenIds(ids=ids),
            sampling_params=params(_NUM_TOKENS),
        )
        attempt = Attempt()
        (self.run.firsts if kept is None else kept).append(attempt)
        call = self._stub.Generate(request)
        try:
            async for output in call:
                attempt.first_at = attempt.first_at or time.monotonic()
                attempt.token_ids += output.token_ids
            attempt.code = grpc.StatusCode.OK
            if attempt.token_ids != expected_tokens(ids, _NUM_TOKENS, _VOCAB_SIZE, seed=7):
                self.run.wrong.append(f"request {number} got other tokens")
        except grpc.aio.AioRpcError as error:
            _take_error(attempt, error)
            if not attempt.refused:
                self.run.wrong.append(f"request {number}: {attempt.code}: {attempt.details[:120]}")
        finally:
            attempt.ended = time.monotonic()
            call.cancel()
        return attempt


def _take_error(attempt: Attempt, error: grpc.aio.AioRpcError) -> None:
    """Notes how a call failed, and what it was told to do."""
    attempt.code, attempt.details = error.code(), error.details() or ""
    metadata = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(metadata.get(_DETAILS, b""))
    for detail in status.details:
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            attempt.delay = info.retry_delay.ToNanoseconds() / 1e9
    if _PUSHBACK in metadata:
        attempt.pushback = int(metadata[_PUSHBACK]) / 1e3


class Processors:
    """Processor time of a site and of this process, since it was made."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._began, self._used = time.monotonic(), self._now()

    def _now(self) -> float:
        services = sum(service.cpu_seconds() for service in self._site.services.values())
        return services + time.process_time()

    def share(self) -> float:
        """Of all processors of the machine, 0 to 1."""
        passed = (time.monotonic() - self._began) * len(os.sched_getaffinity(0))
        return (self._now() - self._used) / passed


async def overload(report: Report, seconds: float, seed: int = 0) -> None:
    """Measures capacity, then offers four times as much for so many seconds."""
    async with (
        running_site(_FLAGS, fake=True, real_flags=_FAKE_FLAGS) as site,
        front_end_stub(site.front_end.address) as stub,
    ):
        await site.engines[0].service.ask("pace", _STEP_SECONDS)
        capacity = await _capacity(stub, seconds * _CAPACITY_SHARE, seed)
        callers, processors = Callers(stub, seed + 1), Processors(site)
        began = time.monotonic()
        ends = began + seconds
        await callers.at_random(FACTOR * capacity, ends)
        share = processors.share()
        warm = began + seconds * _WARM_UP_SHARE
        goodput = callers.run.completed(warm, ends) / (ends - warm) / capacity
    judge(report, callers.run, capacity, goodput, share)


async def _capacity(stub: Any, seconds: float, seed: int) -> float:
    """Requests a second that are answered when there always are enough."""
    callers = Callers(stub, seed)
    began = time.monotonic()
    ends = began + seconds
    await callers.one_after_the_other(2 * _MAX_NUM_SEQS, ends)
    warm = began + seconds * _WARM_UP_SHARE
    assert not callers.run.wrong, callers.run.wrong[:3]
    return callers.run.completed(warm, ends) / (ends - warm)


def judge(report: Report, run: Run, capacity: float, goodput: float, share: float) -> None:
    """Adds the verdicts."""
    too_busy = [f"it does not count: {share:.0%} of the machine were used"]
    report.add(
        "overload: the machine",
        too_busy if share > MAX_MACHINE_SHARE else [],
        f"{share:.0%} of all processors; capacity {capacity:.1f} requests a second",
    )
    low = [f"{goodput:.1%} of capacity"] if goodput < MIN_GOODPUT else []
    report.add("overload: goodput", low, f"{goodput:.1%} of capacity")
    report.add("overload: answers", run.wrong, f"{len(run.wrong)} wrong")
    everyone = [*run.firsts, *run.returns]
    waits = [each.first_at - each.started for each in everyone if each.first_at is not None]
    median = statistics.median(waits or [0.0])
    found = [f"{median:.2f} s at the median"] if median > MAX_FIRST_TOKEN or not waits else []
    note = f"median {median:.2f} s, longest {max(waits, default=0):.2f} s, of {len(waits)}"
    report.add("overload: first token", found, note)
    _judge_refusals(report, [each for each in everyone if each.refused])
    came = [each for each in run.returns if each.refused or each.first_at is not None]
    admitted = sum(not each.refused for each in came) / len(came) if came else 0.0
    found = [f"{admitted:.0%} got in"] if admitted < MIN_FIRST_RETURNS else []
    report.add("overload: probes", found, f"{admitted:.0%} of {len(came)} got in at first return")


def _judge_refusals(report: Report, refused: Sequence[Attempt]) -> None:
    if not refused:
        report.add("overload: refusals", ["it does not count: nobody was refused"])
        return
    took = sorted(each.ended - each.started for each in refused if each.ended is not None)
    late = took[int(0.99 * (len(took) - 1))]
    found = [f"the slowest hundredth takes over {late:.3f} s"] if late > MAX_REFUSAL else []
    note = f"p99 {late * 1e3:.0f} ms, median {took[len(took) // 2] * 1e3:.0f} ms, {len(took)}"
    report.add("overload: refusals", found, note)
    delays = [each.delay for each in refused if each.delay is not None]
    silent = len(refused) - len(delays)
    found = [f"{silent} were told no delay"] if silent else []
    differing = sum(
        each.pushback is None or abs(each.pushback - (each.delay or 0.0)) > 0.002
        for each in refused
    )
    found += [f"{differing} were told another delay, or none, by {_PUSHBACK}"] if differing else []
    long = sum(delay > MAX_DELAY for delay in delays)
    found += [f"{long} were told more than {MAX_DELAY:g} s"] if long else []
    spread = f"{min(delays, default=0):.2f} to {max(delays, default=0):.2f} s"
    report.add(
        "overload: delays", found, f"{spread}, median {statistics.median(delays or [0]):.2f}"
    )
