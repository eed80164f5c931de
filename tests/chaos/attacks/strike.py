"""One attack on a site, and its verdicts."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from chaos.attacks.beside import MAX_MEMORY, Beside, Seen, watched
from chaos.attacks.footprint import Footprint
from chaos.attacks.ground import Ground, seen_beside
from chaos.attacks.shot import Attack
from chaos.attacks.squad import Squad
from chaos.attacks.verdicts import notes_beside, problems_beside
from chaos.checks.rest import at_rest
from chaos.checks.statuses import ALLOWED
from chaos.checks.verdicts import Report

MAX_RATIO_OVER_TWIN = 4.0
"""A step of the embedded model is so small that sampling weighs more in it than in any model of
use, of which `benchmarks/micro` says what each parameter costs."""
_SPARE_GAP = 0.005
"""Seconds that a usual gap may differ from its twin's on a machine that does other things too."""
MAX_LOG_BYTES = 2048
"""A call."""
_SPARE_LOG_BYTES = 65_536
_REST_SECONDS = 20.0
_FIRST_SECONDS = 4.0
"""Of the strike before the one that counts. Interpreters and allocators keep some of the memory
that so many calls at once need for the next time; what an attack takes beyond that is a leak."""
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Sent:
    """What the attackers sent and what it left behind."""

    ended: Counter[str]
    num_open: int
    complaints: list[str]
    logged: int
    in_time: bool = True
    """False if it was stopped for the memory it took."""

    @property
    def num_calls(self) -> int:
        """All of them."""
        return self.ended.total() + self.num_open


async def strike(ground: Ground, attack: Attack, seconds: float, seed: int, report: Report) -> bool:
    """Runs it; False if the site is not what it was before."""
    site, footprint = ground.site, Footprint(ground.site)
    harmless = ground.harmless
    if attack.twin is not None:
        name = f"{attack.name}/twin"
        harmless = await seen_beside(
            site, ground.references, ground.canary, name, min(seconds, 20.0), seed
        )
    before, fresh = await at_rest(site), footprint.memory()
    async with Squad(site, attack.name, seed) as squad:
        squad.go()
        await asyncio.sleep(min(seconds, _FIRST_SECONDS))
        await squad.stop()
    await before.problems(site, _REST_SECONDS)
    memory, logged = await footprint.settled(_REST_SECONDS), footprint.logged()
    async with (
        Squad(site, attack.name, seed) as squad,
        Beside(site, ground.references, ground.canary, attack.name) as beside,
    ):
        await beside.until_running()
        squad.go()
        in_time = await watched(beside, seconds)
        await squad.stop()
    sent = Sent(squad.ended, squad.num_open, squad.complaints, footprint.logged() - logged, in_time)
    found = problems_of(attack, beside.seen, harmless, sent)
    found["at rest"] = await before.problems(site, _REST_SECONDS)
    found["memory"] = _stopped(sent) + await footprint.grown(memory, _REST_SECONDS)
    notes = _notes(beside.seen, harmless, sent)
    notes["memory"] += "; the first strike left " + _kept(fresh, memory)
    for what, problems in found.items():
        report.add(f"attack: {attack.name}: {what}", problems, notes.get(what, ""))
    return not (found["at rest"] or found["memory"])


def problems_of(attack: Attack, seen: Seen, harmless: Seen, sent: Sent) -> dict[str, list[str]]:
    """The problems of each kind that show at once."""
    found = problems_beside(seen, harmless, waits=not attack.fills_queue)
    if attack.twin is not None:
        found["canary"] += _slower_than_twin(seen, harmless)
    return found | {"calls": _problems_of_calls(sent), "logs": _problems_of_logs(sent)}


def _slower_than_twin(seen: Seen, twin: Seen) -> list[str]:
    if seen.usual_gap <= MAX_RATIO_OVER_TWIN * twin.usual_gap + _SPARE_GAP:
        return []
    return [
        f"usually {seen.usual_gap * 1e3:.0f} ms, and {twin.usual_gap * 1e3:.0f} ms beside the same "
        "requests without what is costly"
    ]


def _problems_of_calls(sent: Sent) -> list[str]:
    found = [f"{count} calls {name}" for name, count in sent.ended.items() if name not in ALLOWED]
    if not sent.num_calls:
        found.append("it does not count: the attackers sent nothing")
    return [*found, *sent.complaints]


def _problems_of_logs(sent: Sent) -> list[str]:
    allowed = MAX_LOG_BYTES * sent.num_calls + _SPARE_LOG_BYTES
    return [f"{sent.logged / _MIB:.1f} MiB"] if sent.logged > allowed else []


def _stopped(sent: Sent) -> list[str]:
    return [] if sent.in_time else [f"the attack was stopped at {MAX_MEMORY / _MIB:.0f} MiB"]


def _kept(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """What each service has kept of its memory."""
    kept = {name: (after[name] - size) / _MIB for name, size in before.items()}
    return ", ".join(f"{name} {size:+.0f} MiB" for name, size in kept.items())


def _notes(seen: Seen, harmless: Seen, sent: Sent) -> dict[str, str]:
    """The figures behind each verdict."""
    ended = [*sent.ended.most_common(), ("open", sent.num_open)]
    return notes_beside(seen, harmless) | {
        "calls": ", ".join(f"{count} {name}" for name, count in ended),
        "logs": f"{sent.logged / max(1, sent.num_calls):.0f} bytes a call",
        "memory": "peak "
        + ", ".join(f"{name} {size / _MIB:.0f} MiB" for name, size in seen.peak.items()),
    }
