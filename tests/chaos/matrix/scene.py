"""Scene: one request in each of seven states, in one engine, at one moment.

The engine is held between two steps while the scene stands, so that a fault hits all seven. They
come through a front end that knows this engine alone; so does a bystander, over a connection of its
own, while two neighbours come to the engine directly.
A scene that cannot be brought about fails and is no evidence.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from chaos.callers.ask import Ask, Reference, direct, fork, generate, grammar, params
from chaos.callers.call import PLAIN, Call, Manner
from chaos.processes.site import Engine

STATES = ("queued", "prefill", "decode", "preempted", "grammar", "n = 4", "forked")
ENGINE_FLAGS = (
    *("--num-blocks", "200", "--max-num-seqs", "16", "--max-num-batched-tokens", "64"),
    *("--speculation", "none"),
)
_TOKENS = 96
_FORK_TOKENS = 32
_MAX_STEPS = 200
_HELD_SECONDS = 5.0
_FREEING_STEPS, _FREEING_SECONDS = 20, 0.02
"""Each pause is so much longer than the one before; together they are some seconds."""
_PRIORITIES = {"preempted": 5, "queued": 9}
ASKS: Mapping[str, Ask] = {
    "queued": generate("queued", 40, params(24)),
    "prefill": generate("prefill", 1200, params(24)),
    "decode": generate("decode", 24, params(_TOKENS)),
    "preempted": generate("preempted", 400, params(_TOKENS)),
    "grammar": grammar("grammar", _TOKENS),
    "n = 4": generate("n = 4", 24, params(_TOKENS, n=4, temperature=1.0, seed=11)),
}
NEIGHBOURS = (
    direct(generate("neighbour", 24, params(_TOKENS))),
    direct(generate("seeded neighbour", 24, params(_TOKENS, temperature=1.0, seed=12))),
)
BYSTANDER = generate("bystander", 24, params(_TOKENS))
_numbers = count()


class SceneError(Exception):
    """The seven states did not come about together."""


class Scene:
    """The requests in flight."""

    def __init__(
        self, stub: Any, own_stub: Any, engine: Engine, expires_at: float | None = None
    ) -> None:
        """Both stubs lead to a front end that knows this engine alone.

        `own_stub` is the bystander's connection. With `expires_at`, by the monotonic clock, that is
        every victim's deadline.
        """
        self.victims: dict[str, Call] = {}
        self.neighbours: list[Call] = []
        self.bystander: Call | None = None
        self.engine = engine
        self.expires_at = expires_at
        self._stub, self._own_stub = stub, own_stub
        self._number = next(_numbers)

    @property
    def names(self) -> list[str]:
        """Of the victims."""
        return [call.record.name for call in self.victims.values()]

    def reference(self, state: str, references: Mapping[Ask, Reference]) -> Reference:
        """What the victim in a state must answer."""
        if state != "forked":
            return references[ASKS[state]]
        branch = self.victims[state].record
        return references[ASKS["decode"]].after(branch.num_parent_tokens or 0)

    async def build(self) -> None:
        """Starts everything and returns with the engine held. Raises SceneError."""
        ask = self.engine.service.ask
        await ask("allow", 0)
        for state in ("grammar", "n = 4", "decode", "preempted"):
            self._start(state, ASKS[state])
        for number, neighbour in enumerate(NEIGHBOURS):
            name = f"neighbour {number} of {self._number}"
            self.neighbours.append(Call(self.engine.stub, neighbour, name))
        self.bystander = Call(self._own_stub, BYSTANDER, f"bystander of {self._number}")
        begun = [self.victims[state] for state in ("grammar", "n = 4", "decode", "preempted")]
        names = [call.record.name for call in (*begun, self.bystander, *self.neighbours)]
        await self._step_until(lambda found: all(_decodes(found, name, 2) for name in names))
        self._start("forked", fork(self.victims["decode"].record.name, _FORK_TOKENS))
        self._start("prefill", ASKS["prefill"])
        await self._step_until(self._forked_beside_prefill)
        await ask("take_blocks")
        await self._step_until(lambda found: self._is("preempted", found))
        self._start("queued", ASKS["queued"])
        await self._step_until(lambda found: all(self._is(state, found) for state in STATES))

    async def release(self) -> None:
        """Lets the engine go on, with all of its memory."""
        await self.engine.service.ask("give_blocks_back")
        await self.engine.service.ask("allow", None)

    async def until_freed(self) -> list[str]:
        """Lets the engine make a few steps; the victims that it still has after them."""
        service, names = self.engine.service, {*self.names}
        left: set[str] = set()
        for number in range(_FREEING_STEPS):
            await asyncio.sleep(_FREEING_SECONDS * number)  # the fault must reach the engine
            await service.ask("allow", 1)
            if not await service.ask("wait_held", _HELD_SECONDS):
                return ["the engine makes no steps"]
            left = {each["name"] for each in await service.ask("snapshot")} & names
            if not left:
                return []
        return [f"after {_FREEING_STEPS} steps the engine still has {name}" for name in left]

    async def until_ended(self, within: float) -> None:
        """Returns when every victim has ended, or after so many seconds; gives up the rest."""
        tasks = [call.task for call in self.victims.values()]
        await asyncio.wait(tasks, timeout=within)

    async def abandon(self) -> None:
        """Ends all calls that still run."""
        calls = [*self.victims.values(), *self.neighbours]
        calls += [self.bystander] if self.bystander is not None else []
        for call in calls:
            call.task.cancel()
            call.cancel()
        await asyncio.gather(*(call.task for call in calls), return_exceptions=True)

    def _start(self, state: str, ask: Ask) -> None:
        manner = PLAIN
        if self.expires_at is not None:
            manner = Manner(timeout=self.expires_at - time.monotonic())
        name = f"{state} of {self._number}"
        self.victims[state] = Call(
            self._stub,
            ask,
            name,
            manner,
            priority=_PRIORITIES.get(state, 0),
            cache_salt=f"scene {self._number}",  # its prompts are in no cache
        )

    async def _step_until(self, condition: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Lets the engine make single steps, with the last one held."""
        service = self.engine.service
        found: list[dict[str, Any]] = []
        for _ in range(_MAX_STEPS):
            await service.ask("allow", 1)
            if not await service.ask("wait_held", _HELD_SECONDS):
                break
            found = await service.ask("snapshot")
            if condition(found):
                return
            await asyncio.sleep(0.005)  # what was sent must reach the engine
        states = [
            "{name}[{index}] {status} {num_computed_tokens}+{num_output_tokens}".format(**each)
            for each in found
        ]
        ended = [
            f"{call.record.name} {call.record.code.name} {call.record.details}"
            for call in (*self.victims.values(), *self.neighbours)
            if call.record.code is not None
        ]
        raise SceneError(f"not all seven states at once: {', '.join([*ended, *states])}")

    def _forked_beside_prefill(self, found: list[dict[str, Any]]) -> bool:
        return self._is("prefill", found) and self._is("forked", found)

    def _is(self, state: str, found: list[dict[str, Any]]) -> bool:
        """Whether the victim is in its state."""
        name = self.victims[state].record.name
        own = [each for each in found if each["name"] == name]
        if state == "queued":
            return any(_waits_anew(each) for each in own)
        if state == "prefill":
            return any(
                0 < each["num_computed_tokens"] < each["num_prompt_tokens"]
                and each["status"] == "RUNNING"
                for each in own
            )
        if state == "preempted":
            return any(each["status"] == "PREEMPTED" for each in own)
        if state == "grammar" and not any(each["has_grammar"] for each in own):
            return False
        return len(own) == (4 if state == "n = 4" else 1) and _decodes(found, name, 1)


def _waits_anew(sequence: dict[str, Any]) -> bool:
    return bool(sequence["status"] == "WAITING" and not sequence["num_computed_tokens"])


def _decodes(found: list[dict[str, Any]], name: str, num_tokens: int) -> bool:
    """Whether a request is there, and each of its sequences runs and has so many tokens."""
    own = [each for each in found if each["name"] == name]
    return bool(own) and all(
        each["status"] == "RUNNING" and each["num_output_tokens"] >= num_tokens for each in own
    )
