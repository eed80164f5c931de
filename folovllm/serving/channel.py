"""How a channel is opened, and the options that both of its ends agree on.

Keepalive finds a peer that vanished without a word: a long prefill sends no data, so pings must be
allowed without it. Between the services, heartbeats notice a silent peer first (folovllm/liveness);
pings are for peers that have none. Users' connections get 40 seconds, since they may be slow. Pings
are answered outside of Python, so a busy peer is not a silent one. The server's lowest interval
stays below the clients' ping intervals, or it would close the connection for too many pings.

The servers' other options say what gRPC holds before any of our code sees a call. The bytes that it
may hold for all connections together (its resource quota) cannot be limited from Python.
"""

from collections.abc import Sequence

import grpc

# 4 MiB is gRPC's own default; a prompt of 256k ids takes at most 5 bytes each.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024

# Keys and values of a call's headers, or of its trailers. A token of 8 KiB fits in beside traces.
_MAX_METADATA_BYTES = 16 * 1024
# Calls that a server holds at once, whoever has made them: far more than it can serve, since its
# own limits, which tell when to return, have to come first.
MAX_CALLS = 16 * 1024
# The longest time that these options know means "for ever".
_EVER = 2**31 - 1

_COMMON: list[tuple[str, int]] = [
    # Services are reached directly; a proxy of the environment is meant for the web.
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Between a lower and a higher limit, of 8 and 16 KiB by default, gRPC refuses at random.
    ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
]

_CLIENT: list[tuple[str, int]] = [
    *_COMMON,
    # A server that comes back is found again within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Despite its name, the time limit of one attempt to connect, which a busy or distant machine
    # needs. The command line reports earlier that nothing answers.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]

_SERVER: list[tuple[str, int]] = [
    *_COMMON,
    # A peer that pings more often is told so, and its connection is closed at the third time.
    ("grpc.http2.min_ping_interval_without_data_ms", 4_000),
    ("grpc.http2.max_ping_strikes", 2),
    # Of one connection. A client keeps further calls until others end; none of them fails.
    ("grpc.max_concurrent_streams", 4096),
    # Calls that have arrived and wait until Python takes them, which takes 0.1 ms each. By default
    # some of a burst over 1,000 are cancelled, and all over 3,000.
    ("grpc.server.max_pending_requests", MAX_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", MAX_CALLS),
    # Seconds for which they wait; then the process is stuck, and others may serve them.
    ("grpc.server_max_unrequested_time_in_server", 30),
    # Until a connection is one of HTTP/2. Whatever connects and says nothing holds a place so long.
    ("grpc.server_handshake_timeout_ms", 10_000),
    # A connection without calls gives its place to others; its client makes a new one when needed.
    ("grpc.max_connection_idle_ms", 300_000),
    # However old it is, it may have a stream that generates.
    ("grpc.max_connection_age_ms", _EVER),
    ("grpc.max_connection_age_grace_ms", _EVER),
]


def _keepalive(interval_ms: int, timeout_ms: int) -> list[tuple[str, int]]:
    """A ping after each interval without data, whose answer, like any data's, may take so long."""
    return [
        ("grpc.keepalive_time_ms", interval_ms),
        # Of data that the peer's system does not acknowledge.
        ("grpc.keepalive_timeout_ms", timeout_ms),
        # Of a ping that the peer itself does not answer, or gRPC waits for a minute.
        ("grpc.http2.ping_timeout_ms", timeout_ms),
    ]


# Between a user and a service.
CLIENT_OPTIONS = [*_CLIENT, *_keepalive(30_000, 10_000)]
SERVER_OPTIONS = [*_SERVER, *_keepalive(30_000, 10_000)]

# Between the services.
ENGINE_CLIENT_OPTIONS = [*_CLIENT, *_keepalive(6_000, 10_000)]
ENGINE_SERVER_OPTIONS = [*_SERVER, *_keepalive(6_000, 10_000)]


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
