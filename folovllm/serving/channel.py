"""How a channel is opened, and the options that both of its ends agree on.

Keepalive finds a peer that vanished without a word: a long prefill sends no data, so pings must be
allowed without it. The server's lowest interval stays below the client's ping interval, or the
server would close the connection for too many pings.
"""

from collections.abc import Sequence

import grpc

# 4 MiB is gRPC's own default; a prompt of 256k ids takes at most 5 bytes each.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024

_COMMON: list[tuple[str, int]] = [
    # Services are reached directly; a proxy of the environment is meant for the web.
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
]

CLIENT_OPTIONS: list[tuple[str, int]] = [
    *_COMMON,
    ("grpc.http2.max_pings_without_data", 0),
    # A server that comes back is found again within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Despite its name, the time limit of one attempt to connect, which a busy or distant machine
    # needs. The command line reports earlier that nothing answers.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]

SERVER_OPTIONS: list[tuple[str, int]] = [
    *_COMMON,
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_concurrent_streams", 4096),
    ("grpc.server_handshake_timeout_ms", 10_000),
]


def open_channel(
    address: str,
    credentials: grpc.ChannelCredentials | None = None,
    options: Sequence[tuple[str, int]] = CLIENT_OPTIONS,
) -> grpc.aio.Channel:
    """A channel to HOST:PORT for asyncio, encrypted if `credentials` are given."""
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)


def open_sync_channel(
    address: str,
    credentials: grpc.ChannelCredentials | None = None,
    options: Sequence[tuple[str, int]] = CLIENT_OPTIONS,
) -> grpc.Channel:
    """A channel to HOST:PORT for threads, encrypted if `credentials` are given."""
    if credentials is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, credentials, options)
