"""Two engines of one tokenizer and other weights are no replicas of each other."""

import tempfile
from pathlib import Path

from chaos.callers.ask import generate, params
from chaos.callers.call import Call, Manner
from chaos.checks.verdicts import Report
from chaos.incidents.incident import new_name
from chaos.processes.checkpoints import copy_of_model, other_weights
from chaos.processes.site import front_end_stub, running_site

SAME = generate("same", 24, params(24))
_NUM_CALLS = 24


async def other_weights_pooled(report: Report) -> None:
    """One prompt has one answer, and the front end names the engine that it refuses."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        # The same name, so that nothing but the tensors tells them apart.
        models = [copy_of_model(Path(folder) / "a"), other_weights(Path(folder) / "b")]
        flags = [("--model", str(model)) for model in models]
        async with running_site(*flags) as site, front_end_stub(site.front_end.address) as stub:
            answers: set[tuple[int, ...]] = set()
            for number in range(_NUM_CALLS):
                # Another salt, so that no prefix cache leads all to one engine.
                call = Call(
                    stub, SAME, new_name("same"), Manner(timeout=20), cache_salt=str(number)
                )
                other = Call(stub, SAME, new_name("same"), Manner(timeout=20), cache_salt="x")
                await call.task
                await other.task
                for each in (call, other):
                    answers.add(each.record.reference().token_ids[0])
            found = [f"one prompt has {len(answers)} answers"] if len(answers) > 1 else []
            report.add("identity: other weights: answers", found)
            ready = await site.front_end.ask("ready_engines")
            found = [f"{len(ready)} engines are pooled"] if len(ready) != 1 else []
            report.add("identity: other weights: pool", found)
