"""What is judged of what callers saw who did no harm."""

from chaos.attacks.beside import Seen

MAX_GAP_OVER_HARMLESS = 0.25
MAX_HEALTH = 0.5
MAX_WAIT_OVER_HARMLESS = 5.0
"""Seconds, of which none is a matter of processors."""


def problems_beside(seen: Seen, harmless: Seen, waits: bool = True) -> dict[str, list[str]]:
    """What was worse than beside harmless load, by what it concerns.

    How long others waited for their answers counts only if `waits`.
    """
    gap = seen.gap - harmless.gap
    slow = [f"{gap * 1e3:.0f} ms over harmless load"] if gap > MAX_GAP_OVER_HARMLESS else []
    health = [
        f"{name} answers after {longest:.2f} s"
        for name, longest in seen.health.items()
        if longest > MAX_HEALTH
    ]
    waited = max(seen.wait - harmless.wait, seen.start - harmless.start)
    is_late = waits and waited > MAX_WAIT_OVER_HARMLESS
    late = [f"an answer came {waited:.1f} s late"] if is_late else []
    return {
        "canary": [*slow, *seen.canary],
        "health": [*health, *seen.unhealthy],
        "others": [*seen.refused, *late],
    }


def notes_beside(seen: Seen, harmless: Seen) -> dict[str, str]:
    """The figures behind each verdict."""
    milliseconds = [
        f"{each * 1e3:.0f}"
        for each in (seen.gap, harmless.gap, seen.usual_gap, harmless.usual_gap, seen.start)
    ]
    return {
        "canary": "gap {} ms, {} beside harmless load; usually {}, {}; first after {}".format(
            *milliseconds
        ),
        "health": ", ".join(f"{name} {each * 1e3:.0f} ms" for name, each in seen.health.items()),
        "others": f"{seen.num_innocent} calls, the longest {seen.wait:.2f} s",
    }
