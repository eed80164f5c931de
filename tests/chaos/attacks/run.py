"""Runs attacks one after the other, each on services that no other attack has hurt."""

import asyncio
from collections.abc import Iterable

from chaos.attacks.catalogue import ATTACKS
from chaos.attacks.ground import Ground, running_ground
from chaos.attacks.shot import Attack
from chaos.attacks.strike import strike
from chaos.checks.verdicts import Report

_SPARE_SECONDS = 240.0


async def run_attacks(report: Report, names: Iterable[str], seconds: float, seed: int = 0) -> None:
    """Runs those of the names, each for so many seconds. One that breaks off has failed."""
    chosen = [ATTACKS[name] for name in names]
    for fake in (False, True):
        waiting = [attack for attack in chosen if attack.fake is fake]
        while waiting:
            try:
                async with running_ground(fake, seconds, seed) as ground:
                    is_sound = True
                    while waiting and is_sound:
                        is_sound = await _run(ground, waiting.pop(0), seconds, seed, report)
            except AssertionError as error:
                report.add("attacks: the site", [str(error)[:500]])
                return


async def _run(ground: Ground, attack: Attack, seconds: float, seed: int, report: Report) -> bool:
    problems, is_sound = [], False
    try:
        async with asyncio.timeout(2 * seconds + _SPARE_SECONDS):
            is_sound = await strike(ground, attack, seconds, seed, report)
    except Exception as error:
        problems = [repr(error)[:500]]
    report.add(f"attack: {attack.name}: runs", problems, quiet=not problems)
    return is_sound
