"""One engine on several ranks: the first is given commands, the others repeat them.

What an engine does follows from its commands, in their order, and from nothing else: no clock, no
chance. So the ranks need not exchange what their schedulers decide. Before each step the first one
sends the others the commands since the last, and then all take the step, each with its part of the
model; what they draw comes from the same logits. `follow` is the whole life of the others.
"""

import struct
from collections.abc import Sequence

from engine_service.distributed.broadcast import BroadcastChannel
from engine_service.engine.commands import Command, decode_commands, encode_commands
from engine_service.engine.delivery.step_outputs import StepOutputs
from engine_service.engine.llm_engine import LLMEngine
from folovllm.errors import EngineDeadError, ServerError

# A message is the digest of the latest outputs, and the commands since. An empty one ends all.
_DIGEST = struct.Struct("<q")


class Leader:
    """The first rank's end. All ranks warm up first, and then wait for its steps."""

    def __init__(self, channel: BroadcastChannel) -> None:
        self._channel = channel
        self._digest = 0

    def step(self, engine: LLMEngine, commands: Sequence[Command]) -> StepOutputs:
        """An `engine_work.Step` of all ranks. Raises EngineDeadError if another has ended."""
        self._channel.send(_DIGEST.pack(self._digest) + encode_commands(commands))
        outputs = engine.step_in_columns()
        self._digest = _digest(outputs)
        return outputs

    def stop(self) -> None:
        """Ends `follow` on the other ranks. Raises EngineDeadError if one has ended already."""
        self._channel.send(b"")


def follow(engine: LLMEngine, channel: BroadcastChannel) -> None:
    """Warms up, and repeats what the first rank's engine does until that is stopped.

    Raises EngineDeadError if the first rank ends otherwise or a step fails, and ServerError if this
    rank's tokens are not the first one's.
    """
    engine.warm_up()
    digest = 0
    while message := channel.receive():
        if _DIGEST.unpack_from(message)[0] != digest:
            raise ServerError("this rank has drawn other tokens than the first one")
        for command in decode_commands(message[_DIGEST.size :]):
            command.apply(engine)
        try:
            digest = _digest(engine.step_in_columns())
        except RuntimeError as error:  # what tensors' exchange raises
            reason = str(error).splitlines()[0]
            raise EngineDeadError(f"a step cannot be computed: {reason}") from error


def _digest(step: StepOutputs) -> int:
    """A number that depends on indexes and tokens only; the same in all processes."""
    return hash(tuple((output.index, *output.token_ids) for output in step))
