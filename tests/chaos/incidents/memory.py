"""Two engines on one host: what they plan together is there."""

import asyncio

import psutil

from chaos.checks.verdicts import Report
from chaos.processes.site import Engine
from folovllm.v1 import types_pb2

_SHARE = 0.6
_BYTES_PER_TOKEN = 2 * 4 * 2 * 64 * 4
"""Keys and values of the embedded model, 4 layers of 2 heads of 64, in float32."""
_FLAGS = (
    *("--device", "cpu", "--dtype", "float32", "--max-num-seqs", "4096"),
    *("--max-num-batched-tokens", "4096", "--memory-utilization", str(_SHARE)),
)


async def two_engines_plan(report: Report) -> None:
    """Each takes more than half of what is free; together that must not be more than all."""
    free = psutil.virtual_memory().available
    engines = [Engine(_FLAGS), Engine(_FLAGS)]
    try:
        await asyncio.gather(*(engine.service.wait_serving() for engine in engines))
        planned = sum([await _planned_bytes(engine) for engine in engines])
        found = [f"{planned >> 20} MiB are planned, {free >> 20} MiB were free"]
        report.add("memory: two engines", found if planned > free else [])
    except AssertionError as error:  # the second one may say that it cannot start
        said = any(
            "memory" in engine.service.log
            for engine in engines
            if engine.service.exit_code is not None
        )
        report.add("memory: two engines", [] if said else [str(error)[:200]])
    finally:
        for engine in engines:
            await engine.close()


async def _planned_bytes(engine: Engine) -> int:
    info = await engine.stub.GetModelInfo(types_pb2.GetModelInfoRequest(), timeout=10)
    return int(info.num_kv_blocks * info.block_size * _BYTES_PER_TOKEN)
