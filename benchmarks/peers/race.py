"""Races: contenders in turn, A B A B, with the same prompts, each alone on the machine."""

from collections.abc import Callable, Sequence

from benchmarks.harness.cases import Case
from benchmarks.harness.ceilings import Bounds
from benchmarks.harness.open_loop import Load, latencies_ms, tokens_per_s
from benchmarks.peers.contender import Contender, ContenderError
from benchmarks.results.measurement import Measurement


def race(
    contenders: list[Contender],
    case: Case,
    turns: int,
    bounds: Bounds,
    say: Callable[[str], None],
) -> list[Measurement]:
    """Tokens a second of each, after one short turn to warm up.

    A peer that fails is removed from the list, and `say` is told why.
    """
    rates: dict[Contender, list[float]] = {each: [] for each in contenders}
    for turn in range(turns + 1):
        batch = case if turn else case.warm_up
        prompts = batch.prompts(turn, bounds.shape.vocab_size)
        for contender in list(contenders):
            try:
                with contender.turn():
                    rate = batch.rate(contender.generate(prompts, batch.new_tokens))
            except ContenderError as error:
                if not contender.name.is_peer:
                    raise
                say(f"{contender.name} leaves the run at {case.name}: {error}")
                contenders.remove(contender)
                continue
            if turn:
                rates[contender].append(rate)
    return [
        Measurement(
            case=case.name,
            engine=str(contender.name),
            unit="tok/s",
            values=tuple(rates[contender]),
            bound=bounds.rate(case, contender.name),
        )
        for contender in contenders
    ]


def race_under_load(
    contenders: Sequence[Contender], load: Load, turns: int, vocab_size: int
) -> list[Measurement]:
    """Latencies and throughput of each under an open loop of requests."""
    rates: dict[str, list[float]] = {}
    latencies: dict[tuple[str, str], list[float]] = {}
    for turn in range(turns):
        arrivals = load.arrivals(turn, vocab_size)
        for contender in contenders:
            engine = str(contender.name)
            with contender.turn():
                times = contender.serve(arrivals)
            rates.setdefault(engine, []).append(tokens_per_s(times))
            for what, value in latencies_ms(arrivals, times).items():
                latencies.setdefault((f"{load.name}, {what}", engine), []).append(value)
    found = [Measurement(load.name, engine, "tok/s", tuple(each)) for engine, each in rates.items()]
    return found + [
        Measurement(case, engine, "ms", tuple(each)) for (case, engine), each in latencies.items()
    ]


def standing(contenders: Sequence[Contender]) -> list[Measurement]:
    """How long each took to open, and the memory that it has now."""
    ready = [Measurement("ready after", str(c.name), "s", (c.ready_s,)) for c in contenders]
    return ready + [
        Measurement("resident memory", str(c.name), "MiB", (c.resident_bytes() / 2**20,))
        for c in contenders
    ]
