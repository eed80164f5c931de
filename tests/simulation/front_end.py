"""FrontEnd: one process of the tokenizer service, with its real pool, sessions and handlers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from folovllm.chat import Tool
from simulation.network import Channel, Network
from simulation.tokens import THINK_START, TOKENIZER
from simulation.virtual_loop import Process, VirtualLoop, process_name
from tokenizer_service.chat.conversation import ConversationRequest
from tokenizer_service.chat.markers import ChatMarkers
from tokenizer_service.chat.renderer import Rendered
from tokenizer_service.engines import client
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.handlers.services import Services
from tokenizer_service.text.limits import Limits
from tokenizer_service.text.offload import Offload

_MAX_PROMPT_BYTES = 65536


class SimulatedRenderer:
    """Renders a conversation as the bytes of its texts; thinking is open if it is enabled."""

    async def read_tools(self, request: ConversationRequest) -> tuple[Tool, ...]:
        return tuple(Tool(tool.name, tool.description) for tool in request.tools)

    async def render(self, request: ConversationRequest, caller: object = None) -> Rendered:
        text = "".join(message.content for message in request.messages)
        token_ids = [*text.encode()]
        if request.enable_thinking:
            assert THINK_START is not None
            token_ids.append(THINK_START)
        return Rendered(text, token_ids)


@dataclass
class FrontEnd:
    """A process, its pool and what its handlers work with."""

    name: str
    process: Process
    pool: EnginePool
    services: Services


@contextmanager
def channels_of(network: Network) -> Iterator[None]:
    """Every channel to an engine leads through the network while this is open."""

    def open_channel(self: client.EngineClient) -> None:
        channel = Channel(network, process_name(), self.address)
        self._channel = channel  # type: ignore[assignment]
        self._engine, self._health = channel.engine, channel.health  # type: ignore[assignment]

    with patch.object(client.EngineClient, "_open_channel", open_channel):
        yield


def start_front_end(loop: VirtualLoop, name: str, addresses: list[str]) -> FrontEnd:
    """Starts one, which connects to the engines."""
    process = Process(loop, name)
    pool = process.call(EnginePool, addresses, Fingerprints("simulated", ""))
    process.call(pool.start)
    services = Services(
        TOKENIZER,
        Limits(_MAX_PROMPT_BYTES),
        SimulatedRenderer(),  # type: ignore[arg-type]
        ChatMarkers.of(TOKENIZER),
        pool,
        Offload(),
    )
    return FrontEnd(name, process, pool, services)
