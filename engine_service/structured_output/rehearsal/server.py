"""The process from which builders are forked, so that each begins with the vocabulary.

It has one thread and waits without using the processor. It ends when the engine's end of the socket
is closed, however that comes, and kills its builders then.
"""

import json
import os
import resource
import selectors
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from engine_service.structured_output.library import read_tokenizer
from engine_service.structured_output.rehearsal.builder import become_builder
from engine_service.structured_output.rehearsal.messages import Order, Outcome, Setting, encode

_READ_BYTES = 2**20


class Server:
    """Forks a builder for each order, and says what has become of it."""

    def __init__(self, engine: socket.socket, setting: Setting) -> None:
        self._engine = engine
        self._setting = setting
        self._tokenizer = read_tokenizer(
            Path(setting.vocabulary_path), setting.vocab_size, setting.eos_token_ids
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(engine, selectors.EVENT_READ)
        self._unread = bytearray()  # the beginning of an order
        self._builders: dict[int, tuple[int, int]] = {}  # number and process id, by their pipe

    def run(self) -> None:
        """Returns when the engine is gone."""
        self._engine.sendall(encode(Outcome(0)))
        try:
            while True:
                for key, _ in self._selector.select():
                    if key.fileobj is not self._engine:
                        self._hear(key.fd)
                    elif not self._take_orders():
                        return
        except ConnectionError:
            return
        finally:
            for _, pid in self._builders.values():
                os.kill(pid, signal.SIGKILL)

    def _take_orders(self) -> bool:
        """Reads what the engine has sent; False if it is gone."""
        data = self._engine.recv(_READ_BYTES)
        *lines, rest = (self._unread + data).split(b"\n")
        self._unread = rest
        for line in lines:
            self._execute(Order(**json.loads(line)))
        return bool(data)

    def _execute(self, order: Order) -> None:
        if order.spec is not None:
            self._start(order)
            return
        for number, pid in self._builders.values():
            if number == order.number:
                os.kill(pid, signal.SIGKILL)

    def _start(self, order: Order) -> None:
        reading, writing = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(reading)
            os.close(writing)
            self._engine.sendall(encode(Outcome(order.number, signal=signal.SIGKILL)))
            return
        if pid == 0:
            try:
                self._selector.close()
                self._engine.close()
                become_builder(self._tokenizer, self._setting, order, writing)
            finally:
                os._exit(1)
        os.close(writing)
        self._builders[reading] = order.number, pid
        self._selector.register(reading, selectors.EVENT_READ)

    def _hear(self, pipe: int) -> None:
        """Tells the engine what a builder says, or how it has ended; either is short."""
        line = os.read(pipe, _READ_BYTES)
        self._selector.unregister(pipe)
        os.close(pipe)
        number, pid = self._builders.pop(pipe)
        if line:
            self._engine.sendall(line)  # before its memory is taken down
        _, status = os.waitpid(pid, 0)  # it has nothing left to do but to end
        if not line:
            number_of_signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            refusal = None if number_of_signal else "its compiler fails"
            self._engine.sendall(encode(Outcome(number, refusal, number_of_signal)))


def main(arguments: Sequence[str]) -> None:
    """Serves the engine whose socket and Setting the arguments name."""
    # A terminal sends it to the whole group; what ends is the engine's to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    setting = Setting(**json.loads(arguments[1]))
    engine = socket.socket(fileno=int(arguments[0]))
    server = Server(engine, setting)
    with suppress(OSError):
        os.nice(setting.niceness)
    server.run()


if __name__ == "__main__":
    main(sys.argv[1:])
