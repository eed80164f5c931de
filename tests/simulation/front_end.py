"""FrontEnd: one process of the tokenizer service, with its real pool, sessions and handlers."""

from dataclasses import dataclass

from folovllm.chat import Tool
from simulation.network import Channel, Network
from simulation.tokens import THINK_START, TOKENIZER
from simulation.virtual_loop import Process, VirtualLoop
from tokenizer_service.chat.conversation import ConversationRequest
from tokenizer_service.chat.markers import ChatMarkers
from tokenizer_service.chat.renderer import Rendered
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.engines.migration.numerics import Migrate
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

    number: int
    name: str
    process: Process
    pool: EnginePool
    services: Services


def start_front_end(
    loop: VirtualLoop, network: Network, number: int, addresses: list[str], migrate: Migrate
) -> FrontEnd:
    """Starts one, which connects to the engines."""
    name = f"front-end-{number}"
    process = Process(loop, name)

    def build() -> EnginePool:
        return EnginePool(
            addresses,
            Fingerprints("simulated", ""),
            migrate=migrate,
            connect=lambda address: Channel(network, name, address),  # type: ignore[arg-type,return-value]
        )

    pool = process.call(build)
    process.call(pool.start)
    services = Services(
        TOKENIZER,
        Limits(_MAX_PROMPT_BYTES),
        SimulatedRenderer(),  # type: ignore[arg-type]
        ChatMarkers.of(TOKENIZER),
        pool,
        Offload(),
    )
    return FrontEnd(number, name, process, pool, services)
