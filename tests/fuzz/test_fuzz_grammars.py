"""The short form of `python -m fuzz.grammars`."""

from engine_service.structured_output.rehearsal.limits import RehearsalLimits
from engine_service.structured_output.rehearsed_compiler import RehearsedCompiler
from fuzz.grammars.campaign import Campaign
from fuzz.grammars.texts import generate
from support.builders.grammar_walks import demo_compiler

LIMITS = RehearsalLimits(0.03, 0.06, wall_seconds=60.0, max_wait_seconds=60.0)


async def test_each_is_compiled_or_refused_and_nothing_is_left_behind() -> None:
    compiler = demo_compiler()
    rehearsed = RehearsedCompiler(compiler, LIMITS)
    try:
        findings = await Campaign(compiler, rehearsed).run(generate(seed=5, count=60))
    finally:
        rehearsed.close()
    assert findings.faults == []
    counts = findings.outcomes
    assert counts["costly refused"] and counts["costly compiled"] and counts["harmless compiled"]
    outcomes = ("compiled", "refused")
    assert (
        sum(counts[f"{kind} {each}"] for kind in ("costly", "harmless") for each in outcomes) == 60
    )
    assert findings.starts


def test_a_seed_gives_the_same_grammars_and_another_gives_others() -> None:
    assert list(generate(1, 30)) == list(generate(1, 30))
    assert list(generate(1, 30)) != list(generate(2, 30))
