"""Addresses of services as people type them, checked before anything connects.

gRPC takes an address as it comes and reports a wrong one late, as a failed connection; a host
without a port even means port 443.
"""

import re
from ipaddress import AddressValueError, IPv6Address

from folovllm.errors import ConfigError

DEFAULT_PORT = 50051
"""The tokenizer service's, which clients ask."""
DEFAULT_ENGINE_PORT = 50052

# What gRPC understands besides HOST:PORT, and checks itself.
_OTHER_SCHEMES = ("unix:", "unix-abstract:", "ipv4:", "ipv6:", "vsock:", "xds:")
_DNS = re.compile(r"dns:(//[^/]*/)?")  # with the name server to ask
_PARTS = re.compile(
    r"(?:(?P<scheme>[A-Za-z][\w+.-]*://))?"
    r"(?P<host>\[[^\[\]/]*\]|[^\[\]:/]*)(?::(?P<port>[^:/]*))?(?P<path>/.*)?"
)
_NAME = re.compile(r"[\w.-]+")
_MAX_PORT = 65535


def check_address(text: str, name: str, default_port: int = DEFAULT_PORT) -> str:
    """The address of a service, unchanged: HOST:PORT, or as gRPC has it, unix:PATH for instance.

    Raises ConfigError, which says what to type, about the setting `name`, such as "--server".
    `default_port` is for that advice. Whether anything answers there is not asked.
    """
    if not isinstance(text, str):
        raise ConfigError(f"{name} must be a text such as localhost:{default_port}, got {text!r}")
    if text.startswith(_OTHER_SCHEMES):
        return text
    host_and_port = _DNS.sub("", text, count=1)
    if fault := _fault(host_and_port):
        advice = _advice(host_and_port, default_port)
        raise ConfigError(f"{name} must be HOST:PORT; {text!r} {fault}; type {advice}")
    return text


def _fault(text: str) -> str | None:
    """What is wrong with an address, to come after it in a sentence."""
    parts = _PARTS.fullmatch(text)
    if parts is None:
        return "has too many colons, or an IPv6 address without brackets"
    scheme, host, port, path = parts.group("scheme", "host", "port", "path")
    if scheme:
        return f"begins with {scheme}, as web addresses do"
    if path:
        return f"has a path, {path!r}"
    if host and not _is_host(host):
        return f"has an invalid host, {host!r}"
    if not host:
        return "has no host" if port else "is no address"
    if not port:
        return "has no port"
    return None if _is_port(port) else f"has the port {port!r}, which is not from 1 to {_MAX_PORT}"


def _advice(text: str, default_port: int) -> str:
    """The valid address nearest to an invalid one."""
    parts = _PARTS.fullmatch(text)
    if parts is None:
        host, _, port = re.sub(r"[\[\]]", "", text).rpartition(":")
        if len(port) < 5:  # it may belong to the IPv6 address
            host, port = f"{host}:{port}", ""
        host = f"[{host}]"
    else:
        host, port = parts["host"], parts["port"] or ""
        if _is_port(host) and not port:
            host, port = "", host
    host = host if _is_host(host) else "localhost"
    return f"{host}:{port if _is_port(port) else default_port}"


def _is_host(text: str) -> bool:
    if not text.startswith("["):
        return _NAME.fullmatch(text) is not None
    try:
        IPv6Address(text.removeprefix("[").removesuffix("]"))
    except AddressValueError:
        return False
    return True


def _is_port(text: str) -> bool:
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_PORT))
    return digits and 1 <= int(text) <= _MAX_PORT
