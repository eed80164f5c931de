"""One run of the CPU benchmark, from a setup and a plan to all measurements."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.cpu import kv_steps, roofline
from benchmarks.cpu.bounds import Bounds
from benchmarks.cpu.measurement import Measurement
from benchmarks.cpu.plan import Plan
from benchmarks.cpu.races import race, race_under_load, standing
from benchmarks.harness.apart import apart
from benchmarks.harness.model_shape import ModelShape
from benchmarks.harness.weight_formats import weight_bytes
from benchmarks.peers.contender import Contender, open_contenders
from benchmarks.peers.contender_name import ContenderName
from benchmarks.peers.folovllm_engine import quantization
from benchmarks.peers.peer import PeerConfig
from folovllm.errors import ConfigError

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured."""

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
    def ours(self) -> ContenderName:
        """Our engine in its first format."""
        return ContenderName("folovllm", self.formats[0])

    @property
    def services(self) -> ContenderName:
        """Both services."""
        return ContenderName("services", self.formats[0])

    def classes(self) -> list[list[ContenderName]]:
        """Engines by their weight format, ours first: those that compete, and open side by side."""
        names = [*(ContenderName("folovllm", each) for each in self.formats), *self.peers]
        formats = dict.fromkeys(name.weight_format for name in names)
        return [[name for name in names if name.weight_format == each] for each in formats]


@dataclass(frozen=True, slots=True)
class Run:
    """What was found."""

    ceilings: roofline.Roofline
    versions: Mapping[str, str]
    measurements: tuple[Measurement, ...]


def measure(setup: Setup, plan: Plan, say: Say) -> Iterator[Run]:
    """Takes some minutes; `say` hears what is done, a line at a time. Raises FolovError.

    Yields what was found so far after each class, and so all of it at last.
    """
    shape = ModelShape.from_folder(setup.folder)
    _check_memory(setup, plan, shape)
    say("measuring the machine")
    ceilings = apart(roofline.measure, setup.threads, plan.read_mib, plan.gemm_size)
    bounds = Bounds(ceilings, shape)
    measurements: list[Measurement] = []
    versions: dict[str, str] = {}
    if plan.steps:
        say("measuring steps of long and ragged contexts")
        measurements += _time_steps(setup, plan, bounds)
        yield Run(ceilings, dict(versions), tuple(measurements))
    for names, race_all in _races(setup, plan):
        say(f"opening {', '.join(map(str, names))}")
        config = _peer_config(setup, plan)
        with open_contenders(names, config, setup.pythons, say) as contenders:
            measurements += race_all(contenders, plan, bounds, say)
            versions |= {str(each.name): each.version for each in contenders}
        yield Run(ceilings, dict(versions), tuple(measurements))


_RaceAll = Callable[[list[Contender], Plan, Bounds, Say], list[Measurement]]


def _races(setup: Setup, plan: Plan) -> Iterator[tuple[Sequence[ContenderName], _RaceAll]]:
    """Engines that open together, and what they run."""
    if plan.cases:
        for names in setup.classes():
            yield names, _race_class
    if plan.served or plan.loads:
        yield (setup.ours, setup.services), _race_services


def _race_class(
    contenders: list[Contender], plan: Plan, bounds: Bounds, say: Say
) -> list[Measurement]:
    found: list[Measurement] = []
    for case in plan.cases:
        say(case.name)
        found += race(contenders, case, plan.turns, bounds, say)
    return found + standing(contenders)


def _race_services(
    contenders: list[Contender], plan: Plan, bounds: Bounds, say: Say
) -> list[Measurement]:
    found: list[Measurement] = []
    for case in plan.served:
        say(case.name)
        found += race(contenders, case, plan.turns, bounds, say)
    for load in plan.loads:
        say(load.name)
        found += race_under_load(contenders, load, plan.load_turns, bounds.shape.vocab_size)
    return found + standing([each for each in contenders if each.name.peer == "services"])


def _time_steps(setup: Setup, plan: Plan, bounds: Bounds) -> list[Measurement]:
    ours = setup.ours
    times = apart(
        kv_steps.time_steps,
        setup.folder,
        quantization(ours.weight_format),
        plan.steps,
        setup.threads,
        plan.turns,
    )
    return [
        Measurement(
            case.group,
            str(ContenderName(case.name, ours.weight_format) if case.beside else ours),
            "ms",
            times[case.name],
            bounds.step_ms(case, ours),
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
    """A class stays open side by side; while an engine loads it may hold its weights twice."""
    weights = 2 * shape.weight_bytes(weight_bytes("folovllm", "bf16"))
    most = max((len(names) for names, _ in _races(setup, plan)), default=0)
    engines = most * (weights + plan.kv_tokens * shape.kv_bytes)
    keys = max((sum(case.context_lengths) for case in plan.steps), default=0)
    needed = max(engines, weights + keys * shape.kv_bytes)
    available = psutil.virtual_memory().available
    if needed > available:
        raise ConfigError(
            f"the run needs {needed / 2**30:.1f} GiB and {available / 2**30:.1f} are free; "
            "compare with fewer peers at a time"
        )
