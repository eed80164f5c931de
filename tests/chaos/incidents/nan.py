"""Weights that are NaN: who meets them fails alone, once; nobody else does."""

import tempfile
from pathlib import Path

import grpc

from chaos.callers.ask import Ask, generate, params
from chaos.callers.call import Call, Manner, reference_of
from chaos.checks.verdicts import Report
from chaos.incidents.incident import OK, all_problems, new_name, records_of, start
from chaos.processes.checkpoints import POISON, all_nan, one_token_nan
from chaos.processes.service import Service
from chaos.processes.site import front_end_stub, running_site
from folovllm.v1 import tokenizer_service_pb2 as messages

NEIGHBOUR = generate("beside", 24, params(200))
_DEATH_SECONDS = 2.0
"""How long an engine takes that is going to end."""
_BLAMED = frozenset({grpc.StatusCode.INTERNAL})


def _poisoned() -> Ask:
    """A request that holds the token whose embedding is NaN."""
    sound = generate("poisoned", 40, params(16))
    assert isinstance(sound.message, messages.GenerateRequest)
    sound.message.token_ids.ids[20] = POISON
    return sound


async def one_nan_token(report: Report) -> None:
    """Two engines have it, so that a second attempt kills the second one."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        model = str(one_token_nan(Path(folder) / "model"))
        flags = ("--model", model)
        async with (
            running_site(flags, flags) as site,
            front_end_stub(site.front_end.address) as stub,
        ):
            expected = await reference_of(stub, NEIGHBOUR, new_name("reference"))
            calls = start(stub, NEIGHBOUR, 8)
            for call in calls:
                await call.until_pieces(1)
            victim = Call(stub, _poisoned(), new_name("victim"), Manner(timeout=20))
            await victim.task
            report.add("nan: its own status", _not_blamed(victim))
            records = await records_of(calls, within=20)
            report.add("nan: neighbours", all_problems(records, expected))
            codes = [await engine.service.wait_ended(_DEATH_SECONDS) for engine in site.engines]
            dead = [f"an engine ended with {code}" for code in codes if code is not None]
            report.add("nan: engines live", dead)
            again = await records_of(start(stub, NEIGHBOUR, 8), within=20)
            report.add("nan: those who come after", all_problems(again, expected, OK))


def _not_blamed(victim: Call) -> list[str]:
    """Whether it ended with a status of its own; its tokens mean nothing."""
    record = victim.record
    if record.code in _BLAMED and not record.pieces:
        return []
    return [f"it ended with {record.code} {record.details[:120]}"]


async def everything_nan(report: Report) -> None:
    """An engine on which every request fails says so, in one line, and does not serve."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        model = all_nan(Path(folder) / "model")
        service = Service("engine_service", "--device", "cpu", "--model", str(model))
        try:
            code = await service.wait_ended(60)
            found = [] if code else [f"its exit code is {code}"]
            found += ["it logs a traceback"] if "Traceback" in service.log else []
            report.add("nan: all weights", found)
        finally:
            await service.close()
