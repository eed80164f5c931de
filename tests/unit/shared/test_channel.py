"""What both ends of a connection agree on."""

import pytest

from folovllm.liveness import LivenessConfig
from folovllm.serving.channel import (
    CLIENT_OPTIONS,
    ENGINE_CLIENT_OPTIONS,
    ENGINE_SERVER_OPTIONS,
    SERVER_OPTIONS,
)

Options = list[tuple[str, int]]


@pytest.mark.parametrize("client", [CLIENT_OPTIONS, ENGINE_CLIENT_OPTIONS])
@pytest.mark.parametrize("server", [SERVER_OPTIONS, ENGINE_SERVER_OPTIONS])
def test_no_server_takes_a_clients_pings_for_too_many(client: Options, server: Options) -> None:
    allowed = dict(server)["grpc.http2.min_ping_interval_without_data_ms"]
    assert allowed < dict(client)["grpc.keepalive_time_ms"]
    assert dict(client)["grpc.http2.max_pings_without_data"] == 0


@pytest.mark.parametrize("options", [ENGINE_CLIENT_OPTIONS, ENGINE_SERVER_OPTIONS])
def test_pings_leave_silence_to_heartbeats_first(options: Options) -> None:
    settings = dict(options)
    assert len(settings) == len(options), "an option is given twice"
    lost = LivenessConfig().lost
    # gRPC pings by itself while data flows, so its limit alone may end a stream.
    for answer in ("grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms"):
        assert lost * 1000 <= settings[answer] <= 2 * lost * 1000
