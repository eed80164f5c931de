"""Rehearsals: what it takes to build a grammar, found out where it harms nobody."""

import json
import signal
from dataclasses import dataclass

from engine_service.structured_output.grammar_spec import GrammarSpec
from engine_service.structured_output.library import STACK_BYTES
from engine_service.structured_output.rehearsal.limits import RehearsalLimits
from engine_service.structured_output.rehearsal.messages import Outcome, Setting, encode
from folovllm.serving.lanes.errors import OverLimitError, WorkerEndedError
from folovllm.serving.lanes.lanes import Lanes
from folovllm.serving.lanes.work import Work

_PREPARE = "engine_service.structured_output.rehearsal.builder:prepare_builds"


@dataclass(frozen=True, slots=True)
class Passed:
    """The grammar can be served; building it takes this much, as measured."""

    seconds: float
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The grammar cannot be served; unless `lasting`, it may be another time."""

    message: str
    lasting: bool = True


class Rehearsals:
    """Has grammars built in processes of their own. Belongs to one event loop."""

    def __init__(self, setting: Setting, limits: RehearsalLimits) -> None:
        self._limits = limits
        self.lanes = Lanes(Work("grammars", _PREPARE, encode(setting), STACK_BYTES), limits)

    async def rehearse(self, spec: GrammarSpec, caller: str) -> Passed | Refused:
        """Builds it once. Raises QueueFullError, UnavailableError."""
        line = spec.encode().encode()
        try:
            outcome = Outcome(**json.loads(await self.lanes.run(lambda: line, len(line), caller)))
        except OverLimitError as error:
            return Refused(f"takes more than {error.limit} to compile")
        except WorkerEndedError as error:
            if error.status in (-signal.SIGSEGV, -signal.SIGBUS):
                return Refused("is nested too deeply for its compiler")
            return Refused("its compiler was killed", lasting=False)
        except RuntimeError:
            return Refused("its compiler fails")
        if outcome.refusal is not None:
            return Refused(outcome.refusal)
        if outcome.num_bytes > self._limits.kept_bytes:
            most = f"{self._limits.kept_bytes // 2**20} MiB"
            return Refused(f"takes more than {most} once it is compiled")
        return Passed(outcome.seconds, outcome.num_bytes)

    def close(self) -> None:
        """Ends the processes."""
        self.lanes.close()
