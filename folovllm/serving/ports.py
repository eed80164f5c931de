"""Ports that a service may take."""

import errno
import socket

from folovllm.errors import ConfigError


def require_free_port(host: str, port: int, flag: str = "--port") -> None:
    """Raises ConfigError where nobody may listen there, naming the flag that changes the port.

    Asked before anything else: gRPC would print a page of its own about a port in use, and a server
    that is there already would answer in the place of ours.
    """
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    try:
        socket.create_server((bare, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = f"the port is in use; stop what listens there, or choose one with {flag}"
        else:
            reason = error.strerror or str(error)
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}") from None
