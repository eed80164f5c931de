"""One run of the CPU benchmark: from a setup and a plan to all measurements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.harness.ceilings import Bounds, Ceilings
from benchmarks.harness.engine_name import EngineName
from benchmarks.harness.model_shape import ModelShape
from benchmarks.harness.plan import Plan
from benchmarks.peers.contender import Contender, open_contenders
from benchmarks.peers.peer import PeerConfig
from benchmarks.peers.race import race, race_under_load, standing
from benchmarks.results.recorder import Recorder
from folovllm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured."""

    folder: Path
    """Of the checkpoint."""
    formats: tuple[str, ...]
    """Weight formats of our engine; services are measured in the first one alone."""
    peers: tuple[EngineName, ...]
    pythons: Mapping[str, str]
    """Interpreters of the peers that have environments of their own, by the peers' names."""
    threads: int
    cache: Path
    """For what peers make of the checkpoint."""

    def classes(self) -> list[list[EngineName]]:
        """Engines by their weight format, ours first: those that compete, and open side by side."""
        names = [*(EngineName("folovllm", each) for each in self.formats), *self.peers]
        formats = dict.fromkeys(name.weight_format for name in names)
        return [[name for name in names if name.weight_format == each] for each in formats]


def compare(setup: Setup, plan: Plan, recorder: Recorder) -> None:
    """Takes some minutes. Raises FolovError."""
    config = PeerConfig(
        model=str(setup.folder),
        weight_format=setup.formats[0],
        cache=str(setup.cache),
        threads=setup.threads,
        max_num_seqs=plan.max_num_seqs,
        max_model_len=plan.max_model_len,
        kv_tokens=plan.kv_tokens,
    )
    shape = ModelShape.from_folder(setup.folder)
    classes = setup.classes() if plan.cases else []
    both = [EngineName(each, setup.formats[0]) for each in ("folovllm", "services")]
    _check_memory(max(map(len, [both, *classes])), plan, shape)
    recorder.say("measuring the machine")
    with Contender(EngineName("machine"), config) as machine, machine.turn():
        measured = machine.call("ceilings", read_mib=plan.read_mib, gemm_size=plan.gemm_size)
    ceilings = recorder.results.ceilings = Ceilings(*measured)
    bounds = Bounds(ceilings, shape)

    def open_and_race(names: Sequence[EngineName], served: bool) -> None:
        recorder.say(f"opening {', '.join(map(str, names))}")
        with open_contenders(names, config, setup.pythons, recorder.say) as contenders:
            recorder.results.versions |= {str(each.name): each.version for each in contenders}
            for case in plan.served if served else plan.cases:
                recorder.add(race(contenders, case, plan.turns, bounds, recorder.say))
            for load in plan.loads if served else ():
                recorder.add(race_under_load(contenders, load, plan.load_turns, shape.vocab_size))
            recorder.add(standing(contenders[1:] if served else contenders))

    for names in classes:
        open_and_race(names, served=False)
    if plan.served or plan.loads:
        open_and_race(both, served=True)


def _check_memory(at_once: int, plan: Plan, shape: ModelShape) -> None:
    """A class stays open side by side; while an engine loads it may hold its weights twice."""
    kv_bytes = (plan.kv_tokens or 0) * shape.kv_bytes
    needed = at_once * (2 * shape.weight_bytes() + kv_bytes)
    available = psutil.virtual_memory().available
    if needed > available:
        raise ConfigError(
            f"the run needs {needed / 2**30:.1f} GiB and {available / 2**30:.1f} are free; "
            "compare with fewer peers at a time"
        )
