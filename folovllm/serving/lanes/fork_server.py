"""The process from which workers are forked, so that each begins with what was prepared.

    python -P -m folovllm.serving.lanes.fork_server FD MODULE:FUNCTION MEMORY_BYTES STACK_BYTES

It has one thread and waits without using the processor. It ends when the service's end of the
socket is closed, however that comes, and kills its workers then.
"""

import os
import resource
import selectors
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module

from folovllm.serving.lanes.frames import ORDER, REPLY, Outcome, reply
from folovllm.serving.lanes.work import Prepare
from folovllm.serving.lanes.worker import Order, Worker
from folovllm.serving.memory.settling import keep_large_blocks_apart, settle_memory

# Whoever streams goes first: the workers take what is left of the processor, in good part.
_NICENESS = 5
_READ_BYTES = 2**20


@dataclass
class _Running:
    """A worker that has not ended, and what it has said so far."""

    number: int
    pid: int
    said: bytearray = field(default_factory=bytearray)

    @property
    def is_complete(self) -> bool:
        if len(self.said) < REPLY.size:
            return False
        return len(self.said) == REPLY.size + int(REPLY.unpack_from(self.said)[-1])


class ForkServer:
    """Forks a worker for each order, and says what has become of it."""

    def __init__(self, service: socket.socket) -> None:
        self._service = service
        self._selector = selectors.DefaultSelector()
        self._selector.register(service, selectors.EVENT_READ)
        self._unread = bytearray()  # the beginning of an order
        self._running: dict[int, _Running] = {}  # by its pipe

    def run(self, prepare: Prepare, memory_bytes: int, stack_bytes: int) -> None:
        """Returns when the service is gone; before the first order, it prepares the work."""
        setup = next(self._orders(), None)
        if setup is None:
            return
        worker = Worker(prepare(setup.payload), memory_bytes, stack_bytes)
        settle_memory()
        self._service.sendall(reply(0, Outcome.DONE))
        try:
            for order in self._orders():
                self._execute(order, worker)
        except ConnectionError:
            return
        finally:
            for each in self._running.values():
                os.kill(each.pid, signal.SIGKILL)

    def _orders(self) -> Iterator[Order]:
        """What the service sends until it is gone, between what the workers say."""
        while True:
            while (order := self._next_order()) is not None:
                yield order
            for key, _ in self._selector.select():
                if key.fileobj is not self._service:
                    self._hear(key.fd)
                    continue
                data = self._service.recv(_READ_BYTES)
                if not data:
                    return
                self._unread += data

    def _next_order(self) -> Order | None:
        if len(self._unread) < ORDER.size:
            return None
        number, seconds, niceness, length = ORDER.unpack_from(self._unread)
        end = ORDER.size + length
        if len(self._unread) < end:
            return None
        order = Order(number, seconds, niceness, bytes(memoryview(self._unread)[ORDER.size : end]))
        del self._unread[:end]
        return order

    def _execute(self, order: Order, worker: Worker) -> None:
        if order.seconds:
            self._start(order, worker)
            return
        for each in self._running.values():
            if each.number == order.number:
                os.kill(each.pid, signal.SIGKILL)

    def _start(self, order: Order, worker: Worker) -> None:
        reading, writing = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(reading)
            os.close(writing)
            self._service.sendall(reply(order.number, Outcome.ENDED, status=-signal.SIGKILL))
            return
        if pid == 0:
            try:
                self._selector.close()
                self._service.close()
                worker.work(order, writing)
            finally:
                os._exit(1)
        os.close(writing)
        self._running[reading] = _Running(order.number, pid)
        self._selector.register(reading, selectors.EVENT_READ)

    def _hear(self, pipe: int) -> None:
        """Passes on what a worker says once that is all, or how it has ended."""
        each = self._running[pipe]
        data = os.read(pipe, _READ_BYTES)
        each.said += data
        if data and not each.is_complete:
            return
        self._selector.unregister(pipe)
        os.close(pipe)
        del self._running[pipe]
        if each.is_complete:
            self._service.sendall(each.said)  # before its memory is taken down
        _, status = os.waitpid(each.pid, 0)  # it has nothing left to do but to end
        if not each.is_complete:
            status = os.waitstatus_to_exitcode(status)
            self._service.sendall(reply(each.number, Outcome.ENDED, status=status))


def main(arguments: Sequence[str]) -> None:
    """Serves the service whose socket the arguments name."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    keep_large_blocks_apart()
    with suppress(OSError):
        os.nice(_NICENESS)
    fd, name, memory_bytes, stack_bytes = arguments
    module, _, function = name.partition(":")
    prepare: Prepare = getattr(import_module(module), function)
    ForkServer(socket.socket(fileno=int(fd))).run(prepare, int(memory_bytes), int(stack_bytes))


if __name__ == "__main__":
    main(sys.argv[1:])
