"""An engine service without a model: it replays a text's token ids.

    python -m benchmarks.services.replay_engine PORT FOLDER STEP_MILLISECONDS [plain]

Each step sends every running request of a session one id more, in one message, as a real engine's
step does; the first comes at once, and between two there are at least so many milliseconds.
Generate does not wait. A request ends after max_tokens ids. A plain engine has no columns.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from itertools import cycle
from pathlib import Path
from typing import Any

from folovllm.model_files import chat_template_fingerprint, tokenizer_fingerprint
from folovllm.sampling_params import SamplingParams
from folovllm.serving.healthcheck import ENGINE_SERVICE
from folovllm.serving.server import GrpcServer, ServerConfig
from folovllm.v1 import engine_service_pb2, engine_service_pb2_grpc, types_pb2
from tokenizer_service.text.tokenizer import Tokenizer

Events = engine_service_pb2.SessionEvents
Command = engine_service_pb2.SessionCommand

_TEXT = (
    "Once upon a time a fox named Anna lived in a small house by the river. Each morning she "
    "walked to the market, café in hand, and asked the owl what day it was. 日曜日, said the owl. "
)
_VOCAB_SIZE = 200_000
_MAX_MODEL_LEN = 131_072


class _Replayed:
    """One request while it runs."""

    def __init__(self, request: types_pb2.Request, ids: list[int], handle: int = 0) -> None:
        self._request = request
        self._handle = handle
        self._ids = cycle(ids)
        self._num_sent = 0

    @property
    def finished(self) -> bool:
        return self._num_sent == self._request.sampling_params.max_tokens

    def add_to(self, events: Events) -> None:
        """Adds its next piece, as a row if it is only an id."""
        if not self._handle or self._num_sent in (0, self._request.sampling_params.max_tokens - 1):
            events.outputs.append(self.next())
            return
        events.columns.handles.append(self._handle)
        events.columns.token_ids.append(next(self._ids))
        self._num_sent += 1

    def next(self) -> types_pb2.CompletionOutput:
        """Its next piece, of one id."""
        piece = types_pb2.CompletionOutput(
            request_id=self._request.request_id, token_ids=[next(self._ids)]
        )
        if self._num_sent == 0:
            params = SamplingParams.from_proto(self._request.sampling_params)
            piece.info.sampling_params.CopyFrom(params.to_proto())
        self._num_sent += 1
        if self.finished:
            piece.finish_reason = types_pb2.FINISH_REASON_LENGTH
        return piece


class ReplayEngine(engine_service_pb2_grpc.EngineServiceServicer):
    """Answers Generate and Session; the other calls of the contract are UNIMPLEMENTED."""

    def __init__(self, folder: Path, step_seconds: float, has_columns: bool = True) -> None:
        self._step_seconds = step_seconds
        self._has_columns = has_columns
        self._ids = Tokenizer.from_folder(folder).encode(_TEXT)
        self._info = types_pb2.ModelInfo(
            model_id="replay",
            vocab_size=_VOCAB_SIZE,
            max_model_len=_MAX_MODEL_LEN,
            block_size=16,
            tokenizer_fingerprint=tokenizer_fingerprint(folder),
            chat_template_fingerprint=chat_template_fingerprint(folder),
        )

    async def GetModelInfo(
        self, request: types_pb2.GetModelInfoRequest, context: Any
    ) -> types_pb2.ModelInfo:
        """What it claims to serve."""
        return self._info

    async def Generate(
        self, request: types_pb2.Request, context: Any
    ) -> AsyncIterator[types_pb2.CompletionOutput]:
        """The ids, a message each."""
        running = _Replayed(request, self._ids)
        while not running.finished:
            yield running.next()

    async def Session(
        self, commands: AsyncIterator[Command], context: Any
    ) -> AsyncIterator[Events]:
        """The ids of all requests, a message for each step."""
        running: dict[str, _Replayed] = {}
        arrived = asyncio.Event()

        async def read() -> None:
            async for command in commands:
                if command.HasField("generate"):
                    request = command.generate
                    handle = command.handle if self._has_columns else 0
                    running[request.request_id] = _Replayed(request, self._ids, handle)
                    arrived.set()
                elif command.HasField("cancel"):
                    running.pop(command.cancel, None)

        reader = asyncio.create_task(read())
        loop = asyncio.get_running_loop()
        next_step = loop.time()
        try:
            yield Events(load=engine_service_pb2.GetLoadResponse())
            while True:
                await arrived.wait()
                await asyncio.sleep(next_step - loop.time())
                next_step = loop.time() + self._step_seconds
                events = Events()
                for each in list(running.values()):
                    each.add_to(events)
                yield events
                for name in [name for name, each in running.items() if each.finished]:
                    del running[name]
                if not running:
                    arrived.clear()
                    next_step = loop.time()
        finally:
            reader.cancel()


async def main(port: int, folder: Path, step_seconds: float, has_columns: bool) -> None:
    """Serves until SIGTERM."""
    server = GrpcServer(ServerConfig(port=port, grace_period=0.0), ENGINE_SERVICE)
    # The calls that it lacks answer UNIMPLEMENTED, as the generated class does.
    engine = ReplayEngine(folder, step_seconds, has_columns)  # type: ignore[abstract]
    engine_service_pb2_grpc.add_EngineServiceServicer_to_server(engine, server.grpc)
    server.bind()
    await server.start()
    await server.set_serving(True)
    await server.wait_for_stop()
    await server.drain()


if __name__ == "__main__":
    asyncio.run(
        main(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]) / 1e3, "plain" not in sys.argv)
    )
