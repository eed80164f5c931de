"""One run of the CPU benchmark, from a setup and a plan to all measurements."""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil

from benchmarks import kv_steps, machine, roofline
from benchmarks.contender import Contender, ContenderName, open_contenders
from benchmarks.measurement import Measurement
from benchmarks.model_shape import ModelShape
from benchmarks.peers.folovllm_engine import quantization
from benchmarks.peers.peer import PeerConfig
from benchmarks.plan import Plan
from benchmarks.races import Bounds, race, race_under_load, standing
from folovllm.errors import ConfigError

_LOAD_TURNS = 2
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured."""

    model: str
    folder: Path
    """Of the checkpoint."""
    formats: tuple[str, ...]
    """Weight formats of our engine; what peers are not measured in has the first one alone."""
    peers: tuple[ContenderName, ...]
    pythons: Mapping[str, str]
    """Interpreters of the peers that have environments of their own, by the peers' names."""
    threads: int
    cache: Path
    """For what peers make of the checkpoint."""

    @property
    def ours(self) -> tuple[ContenderName, ...]:
        """Our engine in each format."""
        return tuple(ContenderName("folovllm", weight_format) for weight_format in self.formats)

    @property
    def services(self) -> ContenderName:
        """Both services."""
        return ContenderName("services", self.formats[0])


@dataclass(frozen=True, slots=True)
class Run:
    """What was found."""

    setup: Setup
    ceilings: roofline.Roofline
    versions: Mapping[str, str]
    measurements: tuple[Measurement, ...]

    @property
    def title(self) -> str:
        """Model and machine, on one line."""
        return f"{self.setup.model}, {self.setup.threads} threads of {machine.describe()}"

    def to_json(self) -> dict[str, object]:
        """All repeats of all cases, and what they were measured with."""
        return {
            "machine": machine.describe(),
            "threads": self.setup.threads,
            "model": self.setup.model,
            "versions": dict(self.versions),
            "roofline": asdict(self.ceilings),
            "measurements": [each.to_json() for each in self.measurements],
        }


def measure(setup: Setup, plan: Plan, say: Callable[[str], None]) -> Run:
    """Takes some minutes; `say` hears what is done, a line at a time. Raises FolovError."""
    shape = ModelShape.from_folder(setup.folder)
    _check_memory(setup, plan, shape)
    say("measuring the machine …")
    ceilings = _apart(roofline.measure, setup.threads, plan.read_mib, plan.gemm_size)
    bounds = Bounds(ceilings, shape)
    say("measuring long and ragged contexts …")
    measurements = _time_steps(setup, plan, bounds)
    versions: dict[str, str] = {}
    for names, race_all in (
        ((*setup.ours, *setup.peers), _race_with_peers),
        ((setup.ours[0], setup.services), _race_with_services),
    ):
        say(f"measuring {', '.join(map(str, names))} …")
        config = _peer_config(setup, plan)
        with open_contenders(names, config, setup.pythons, say) as contenders:
            measurements += race_all(contenders, plan, bounds)
            versions |= {str(each.name): each.version for each in contenders}
    return Run(setup, ceilings, versions, tuple(measurements))


def _race_with_peers(
    contenders: Sequence[Contender], plan: Plan, bounds: Bounds
) -> list[Measurement]:
    found = [each for case in plan.cases for each in race(contenders, case, plan.repeats, bounds)]
    return found + standing(contenders)


def _race_with_services(
    contenders: Sequence[Contender], plan: Plan, bounds: Bounds
) -> list[Measurement]:
    served = race(contenders, plan.served, plan.repeats, bounds)
    loaded = race_under_load(contenders, plan.load, _LOAD_TURNS, bounds.shape.vocab_size)
    return served + loaded + standing([each for each in contenders if each.name.peer == "services"])


def _time_steps(setup: Setup, plan: Plan, bounds: Bounds) -> list[Measurement]:
    ours = setup.ours[0]
    times = _apart(
        kv_steps.time_steps,
        setup.folder,
        quantization(ours.weight_format),
        plan.steps,
        setup.threads,
        plan.repeats,
    )
    return [
        Measurement(
            case.beside or case.name,
            case.name if case.beside else str(ours),
            "ms",
            times[case.name],
            bounds.step_ms(case, ours.weight_format),
        )
        for case in plan.steps
    ]


def _peer_config(setup: Setup, plan: Plan) -> PeerConfig:
    return PeerConfig(
        model=str(setup.folder),
        weight_format=setup.formats[0],
        cache=str(setup.cache),
        threads=setup.threads,
        max_num_seqs=plan.max_num_seqs,
        max_model_len=plan.max_model_len,
        kv_tokens=plan.kv_tokens,
    )


def _check_memory(setup: Setup, plan: Plan, shape: ModelShape) -> None:
    """Engines stay open side by side; while one loads it may hold its weights twice."""
    weights = 2 * shape.weight_bytes("bf16")
    engines = max(len(setup.ours) + len(setup.peers), 2) * (
        weights + plan.kv_tokens * shape.kv_bytes
    )
    steps = weights + max(sum(case.context_lengths) for case in plan.steps) * shape.kv_bytes
    needed, available = max(engines, steps), psutil.virtual_memory().available
    if needed > available:
        raise ConfigError(
            f"the run needs {needed / 2**30:.1f} GiB and {available / 2**30:.1f} are free; "
            "compare with fewer peers at a time"
        )


def _apart(
    function: Callable[_Parameters, _Result],
    *args: _Parameters.args,
    **kwargs: _Parameters.kwargs,
) -> _Result:
    """Calls a function in a process of its own, which leaves no memory and no threads behind."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()
