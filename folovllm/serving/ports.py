"""Whether a service can listen on a port, and for how many connections."""

import errno
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from folovllm.errors import ConfigError


def require_free_port(host: str, port: int, flag: str = "--port") -> None:
    """Raises ConfigError if the port cannot be bound, naming the flag that changes it.

    Called before anything else: gRPC would print a long message about a port in use, and the server
    that uses it would answer instead of ours.
    """
    bare, family = _address(host)
    with _listening_errors(host, port, flag):
        socket.create_server((bare, port), family=family).close()


def allow_open_files(count: int) -> bool:
    """Raises the limit on open files, connections included, to `count`; whether that is allowed.

    The lower of the system's two limits is small for the sake of old programs, often 1,024, and any
    process may raise it up to the higher one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return True
    allowed = hard == resource.RLIM_INFINITY or hard >= count
    resource.setrlimit(resource.RLIMIT_NOFILE, (count if allowed else hard, hard))
    return allowed


@contextmanager
def reserved_port(host: str, port: int, flag: str = "--port") -> Iterator[int]:
    """Reserves a port, for processes that share it by SO_REUSEPORT, and yields its number.

    0 chooses a free one. Nothing listens there until they do. Raises as require_free_port does.
    """
    require_free_port(host, port, flag)
    bare, family = _address(host)
    with socket.socket(family) as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with _listening_errors(host, port, flag):
            reserved.bind((bare, port))
        yield reserved.getsockname()[1]


def host_and_port(host: str, port: int) -> str:
    """An address as gRPC has it: HOST:PORT, with brackets around IPv6."""
    bare, family = _address(host)
    return f"[{bare}]:{port}" if family == socket.AF_INET6 else f"{bare}:{port}"


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
        raise ConfigError(f"cannot listen on {host_and_port(host, port)}: {reason}") from None
