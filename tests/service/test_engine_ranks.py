"""The engine service as torchrun starts it on two ranks: it serves and ends as one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest

from engine_service.config import CacheConfig, EngineConfig, ModelConfig
from engine_service.core.request import Request
from engine_service.engine.factory import build_engine
from folovllm.sampling_params import SamplingParams
from folovllm.serving.channel import CLIENT_OPTIONS
from folovllm.v1 import engine_service_pb2_grpc, types_pb2
from support.builders.tiny_models import make_checkpoint
from support.processes.service_processes import ENGINE_FLAGS, ServiceProcess

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("qwen3_tied", tmp_path_factory.mktemp("ranks"), seed=4)


@contextmanager
def two_ranks(
    folder: Path, *more_flags: str
) -> Iterator[tuple[ServiceProcess, list[psutil.Process]]]:
    """The launcher and its ranks, in their order, once they serve."""
    flags = ("--model", str(folder), "--num-blocks", "64", "--grace-period", "60", *ENGINE_FLAGS)
    service = ServiceProcess("engine_service", *flags, *more_flags, launcher=TORCHRUN)
    ranks: list[psutil.Process] = []
    try:
        service.wait_serving()
        ranks = psutil.Process(service.process.pid).children()
        ranks.sort(key=lambda process: int(process.environ()["RANK"]))
        assert len(ranks) == 2
        yield service, ranks
    finally:
        service.kill()
        for rank in ranks:
            if rank.is_running():
                rank.kill()


def ask(max_tokens: int) -> types_pb2.Request:
    params = types_pb2.SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    return types_pb2.Request(prompt_token_ids=PROMPT, sampling_params=params)


def alone(folder: Path, max_tokens: int) -> list[int]:
    """The tokens of one rank."""
    engine = build_engine(
        EngineConfig(ModelConfig(str(folder), "float32", "cpu"), CacheConfig(num_blocks=64))
    )
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    engine.add_request(Request("alone", PROMPT, params))
    tokens: list[int] = []
    while engine.has_unfinished_requests():
        for output in engine.step():
            tokens += output.token_ids
    return tokens


def test_two_ranks_serve_what_one_would_and_stop_together(folder: Path) -> None:
    with two_ranks(folder) as (service, ranks):
        with grpc.insecure_channel(service.address, CLIENT_OPTIONS) as channel:
            stub = engine_service_pb2_grpc.EngineServiceStub(channel)
            tokens = [id for message in stub.Generate(ask(24)) for id in message.token_ids]
            assert tokens == alone(folder, 24)
            # A request that still runs when the launcher is told to stop has both ranks to its end.
            stream = stub.Generate(ask(200))
            count = len(next(stream).token_ids)
            service.process.terminate()
            count += sum(len(message.token_ids) for message in stream)
            assert count == 200
        service.process.wait(timeout=60)
        psutil.wait_procs(ranks, timeout=30)
        assert not any(rank.is_running() for rank in ranks)
        assert '"ranks": 2' in service.log and '"cut_off": 0' in service.log
        assert "the rank ends" not in service.log and "failed" not in service.log


@pytest.mark.parametrize("killed", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_rank_that_is_killed_takes_all_along(folder: Path, killed: int) -> None:
    with two_ranks(folder) as (service, ranks):
        with grpc.insecure_channel(service.address, CLIENT_OPTIONS) as channel:
            stub = engine_service_pb2_grpc.EngineServiceStub(channel)
            stream = stub.Generate(ask(400))
            next(stream)
            ranks[killed].kill()
            with pytest.raises(grpc.RpcError) as ended:
                list(stream)
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert service.process.wait(timeout=60) != 0
        psutil.wait_procs(ranks, timeout=30)
        assert not any(rank.is_running() for rank in ranks)
        assert ("the engine failed" if killed else "the rank ends") in service.log


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
@pytest.mark.parametrize("busy", [False, True])
def test_a_rank_that_is_stopped_takes_all_along(folder: Path, stopped: int, busy: bool) -> None:
    with two_ranks(folder, "--max-step-seconds", "2") as (service, ranks):
        with grpc.insecure_channel(service.address, CLIENT_OPTIONS) as channel:
            if busy:
                next(engine_service_pb2_grpc.EngineServiceStub(channel).Generate(ask(400)))
            other = ranks[1 - stopped]
            ranks[stopped].suspend()
            assert psutil.wait_procs([other], timeout=15)[0], service.log
        ranks[stopped].kill()
        service.process.wait(timeout=60)
