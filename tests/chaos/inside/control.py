"""Control: a socket by which a service is observed and broken from outside.

A line in is a JSON list, the name of a command and its arguments; a line out is its result. Each
connection has a thread, so that one that waits keeps no other from talking.
"""

import asyncio
import gc
import json
import socketserver
import threading
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chaos.inside.faulty_runner import FaultyRunner
    from chaos.inside.snapshot import Ballast
    from engine_service.engine.llm_engine import LLMEngine
    from tokenizer_service.engines.pool import EnginePool

_LOOP_TIMEOUT = 5.0


class Control:
    """Answers on a Unix socket; engine, runner and loop are set when they exist."""

    def __init__(self, path: Path) -> None:
        self.engine: LLMEngine | None = None
        self.runner: FaultyRunner | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.pool: EnginePool | None = None
        self._path = path
        self._ballast: Ballast | None = None

    def start(self) -> None:
        """Listens, in threads that end with the process."""
        control = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                for line in self.rfile:
                    name, *arguments = json.loads(line)
                    try:
                        answer = {"result": getattr(control, f"do_{name}")(*arguments)}
                    except Exception as error:
                        answer = {"error": repr(error)}
                    self.wfile.write(json.dumps(answer).encode() + b"\n")

        server = socketserver.ThreadingUnixStreamServer(str(self._path), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, name="chaos control", daemon=True).start()

    # The commands.

    def do_allow(self, num_steps: int | None) -> None:
        """See FaultyRunner.allow."""
        self._runner.allow(num_steps)

    def do_wait_held(self, timeout: float) -> bool:
        """See FaultyRunner.wait_held."""
        return self._runner.wait_held(timeout)

    def do_pace(self, seconds: float) -> None:
        """See FaultyRunner.pace."""
        self._runner.pace(seconds)

    def do_hang(self, holds_lock: bool = False) -> None:
        """See FaultyRunner.hang."""
        self._runner.hang(holds_lock)

    def do_fail(self, panics: bool) -> None:
        """See FaultyRunner.fail."""
        self._runner.fail(panics)

    def do_poison(self, names: list[str]) -> None:
        """See FaultyRunner.poison."""
        self._runner.poison(names)

    def do_num_steps(self) -> int:
        """Steps that were begun."""
        return self._runner.num_steps

    def do_snapshot(self) -> list[dict[str, Any]]:
        """What is in flight; only while a step is held."""
        from chaos.inside.snapshot import snapshot

        assert self.engine is not None
        return snapshot(self.engine)

    def do_take_blocks(self) -> int:
        """Takes all free KV blocks away; only while a step is held."""
        from chaos.inside.snapshot import Ballast

        assert self.engine is not None
        self._ballast = self._ballast or Ballast(self.engine)
        return self._ballast.take_all()

    def do_give_blocks_back(self) -> None:
        """The reverse; only while a step is held."""
        if self._ballast is not None:
            self._ballast.give_back()

    def do_touch_cache(self) -> None:
        """Has the system provide the KV cache's memory, which it otherwise does at first use.

        Only before the first request.
        """
        for cache in getattr(self._runner, "_kv_caches", ()):  # a fake runner has none
            for tensor in (cache.key, cache.value):
                tensor.zero_()

    def do_ready_engines(self) -> list[str]:
        """The engines to which a front end sends requests."""
        assert self.pool is not None
        return [engine.address for engine in self.pool._engines if engine.ready]

    def do_where(self, names: list[str]) -> dict[str, list[str]]:
        """Which of the requests run at which engine, as a front end has it."""
        assert self.pool is not None
        found: dict[str, list[str]] = {engine.address: [] for engine in self.pool.engines}
        for name in names:
            stream = self.pool.find(name)
            parts: list[Any] = [*stream.parts] if stream is not None else []
            for address in {part.home.address for part in parts if part.home is not None}:
                found[address].append(name)
        return found

    def do_break_session_writer(self) -> None:
        """Lets the next command to any engine raise an error that is not ours, in a front end."""

        class Broken:
            def __init__(self, call: Any) -> None:
                self._call = call

            def __getattr__(self, name: str) -> Any:
                return getattr(self._call, name)

            async def write(self, command: Any) -> None:
                raise RuntimeError("injected")

        assert self.pool is not None
        for engine in self.pool._engines:
            engine.session._call = Broken(engine.session._call)  # type: ignore[assignment]

    def do_break_session_reader(self) -> None:
        """The same for the next message of an engine."""
        from tokenizer_service.engines.session import EngineSession

        target: Any = EngineSession
        original = target._receive

        def receive(session: EngineSession, events: Any) -> None:
            target._receive = original
            raise RuntimeError("injected")

        target._receive = receive

    def do_tasks(self) -> dict[str, int]:
        """How many tasks of the event loop there are, by the name of their coroutine."""
        loop = self.loop
        assert loop is not None
        found: Future[dict[str, int]] = Future()

        def count() -> None:
            gc.collect()
            names = (getattr(t.get_coro(), "__qualname__", "?") for t in asyncio.all_tasks(loop))
            found.set_result(dict(Counter(names)))

        loop.call_soon_threadsafe(count)
        return found.result(_LOOP_TIMEOUT)

    @property
    def _runner(self) -> "FaultyRunner":
        assert self.runner is not None, "there is no engine, or not yet"
        return self.runner
