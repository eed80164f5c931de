"""Ports that a service may take."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from folovllm.errors import ConfigError


def require_free_port(host: str, port: int, flag: str = "--port") -> None:
    """Raises ConfigError where nobody may listen there, naming the flag that changes the port.

    Asked before anything else: gRPC would print a page of its own about a port in use, and a server
    that is there already would answer in the place of ours.
    """
    bare, family = _address(host)
    with _listening_errors(host, port, flag):
        socket.create_server((bare, port), family=family).close()


@contextmanager
def reserved_port(host: str, port: int, flag: str = "--port") -> Iterator[int]:
    """Keeps a port for processes that will share it by SO_REUSEPORT; gives its number.

    0 takes a free one. Nothing listens there until they do. Raises as require_free_port does.
    """
    require_free_port(host, port, flag)
    bare, family = _address(host)
    with socket.socket(family) as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with _listening_errors(host, port, flag):
            reserved.bind((bare, port))
        yield reserved.getsockname()[1]


def _address(host: str) -> tuple[str, socket.AddressFamily]:
    bare = host.strip("[]")
    return bare, socket.AF_INET6 if ":" in bare else socket.AF_INET


@contextmanager
def _listening_errors(host: str, port: int, flag: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = f"the port is in use; stop what listens there, or choose one with {flag}"
        else:
            reason = error.strerror or str(error)
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}") from None
