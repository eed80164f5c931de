"""An engine service whose engine breaks says so to everyone, and ends."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from folovllm.errors import EngineDeadError, from_rpc_error
from folovllm.serving.channel import CLIENT_OPTIONS
from folovllm.v1 import engine_service_pb2, engine_service_pb2_grpc, types_pb2
from support.processes.service_processes import ENGINE_FLAGS, ServiceProcess

REQUEST = types_pb2.Request(
    prompt_token_ids=[3, 1, 4], sampling_params=types_pb2.SamplingParams(max_tokens=5)
)


@contextmanager
def breakable(way: str, *flags: str) -> Iterator[tuple[ServiceProcess, grpc.Channel]]:
    service = ServiceProcess(
        way, *ENGINE_FLAGS, *flags, launcher=("support.processes.breakable_engine",)
    )
    try:
        service.wait_serving()
        with grpc.insecure_channel(service.address, CLIENT_OPTIONS) as channel:
            yield service, channel
    finally:
        service.kill()


@pytest.fixture(autouse=True)
def support_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = ":".join([str(Path(__file__).parents[1]), *sys.path])
    monkeypatch.setenv("PYTHONPATH", paths)


@pytest.mark.parametrize(
    "way", ["panic", "hang", pytest.param("hang_with_the_lock", marks=pytest.mark.slow)]
)
def test_every_stream_ends_and_the_process_does(way: str) -> None:
    with breakable(way, "--max-step-seconds", "1") as (service, channel):
        stub = engine_service_pb2_grpc.EngineServiceStub(channel)
        streams = [stub.Generate(REQUEST) for _ in range(4)]
        began = time.monotonic()
        errors = []
        for stream in streams:
            with pytest.raises(grpc.RpcError) as ended:
                next(stream)
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
            errors.append(from_rpc_error(ended.value))
        # One that comes after a panic finds a server that is shutting down.
        if way != "hang_with_the_lock":
            assert any(isinstance(error, EngineDeadError) for error in errors)
        assert service.process.wait(timeout=20) == 1
        assert time.monotonic() - began < 10
        # Where it was raised, or the stack of the thread that hangs.
        assert "in broken" in service.log


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2])
def test_a_step_that_hangs_does_not_hold_up_the_end(signals: int) -> None:
    grace = ("--grace-period", "2" if signals == 1 else "60")
    with breakable("hang", *grace) as (service, channel):
        stub = engine_service_pb2_grpc.EngineServiceStub(channel)
        stream = stub.Generate(REQUEST)
        while not stub.GetLoad(engine_service_pb2.GetLoadRequest()).num_requests:
            pass
        began = time.monotonic()
        for _ in range(signals):
            service.process.send_signal(signal.SIGTERM)
            while "draining" not in service.log:  # the second must not merge with the first
                assert time.monotonic() - began < 4
        service.process.wait(timeout=20)
        assert time.monotonic() - began < 4
        assert stream.code() is not grpc.StatusCode.OK
