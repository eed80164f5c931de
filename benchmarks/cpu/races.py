"""Races: contenders in turn, A B A B, with the same prompts, each alone on the machine."""

from collections.abc import Callable, Mapping, Sequence

from benchmarks.cpu.bounds import Bounds
from benchmarks.cpu.cases import Case
from benchmarks.cpu.measurement import Measurement
from benchmarks.harness.open_loop import Latencies, Load, latencies
from benchmarks.peers.contender import Contender, ContenderError


def race(
    contenders: list[Contender],
    case: Case,
    turns: int,
    bounds: Bounds,
    say: Callable[[str], None],
) -> list[Measurement]:
    """Tokens a second of each, after one short turn to warm up.

    A peer that fails leaves the list, and `say` hears why.
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
                if not contender.is_peer:
                    raise
                say(f"{contender.name} leaves the run at {case.name}: {error}")
                contenders.remove(contender)
                continue
            if turn:
                rates[contender].append(rate)
    return [
        Measurement(
            case.name,
            str(contender.name),
            "tok/s",
            tuple(rates[contender]),
            bounds.case(case, contender.name),
        )
        for contender in contenders
    ]


_LATENCIES: Mapping[str, Callable[[Latencies], float]] = {
    "first token p50": lambda seen: seen.first_token_p50_ms,
    "first token p99": lambda seen: seen.first_token_p99_ms,
    "inter-token p50": lambda seen: seen.inter_token_p50_ms,
    "inter-token p99": lambda seen: seen.inter_token_p99_ms,
}


def race_under_load(
    contenders: Sequence[Contender], load: Load, turns: int, vocab_size: int
) -> list[Measurement]:
    """Latencies and throughput of each under an open loop of requests."""
    seen: dict[Contender, list[Latencies]] = {each: [] for each in contenders}
    for turn in range(turns):
        arrivals = load.arrivals(turn, vocab_size)
        for contender in contenders:
            with contender.turn():
                seen[contender].append(latencies(arrivals, contender.serve(arrivals)))
    throughput = [
        Measurement(load.name, str(each.name), "tok/s", tuple(t.tokens_per_s for t in found))
        for each, found in seen.items()
    ]
    return throughput + [
        Measurement(f"{load.name}, {what}", str(each.name), "ms", tuple(map(value, found)))
        for what, value in _LATENCIES.items()
        for each, found in seen.items()
    ]


def standing(contenders: Sequence[Contender]) -> list[Measurement]:
    """How long each took to open, and the memory that it has now."""
    ready = [Measurement("ready after", str(c.name), "s", (c.ready_s,)) for c in contenders]
    return ready + [
        Measurement("resident memory", str(c.name), "MiB", (c.resident_bytes() / 2**20,))
        for c in contenders
    ]
