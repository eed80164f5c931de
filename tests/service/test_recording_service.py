"""A tokenizer service that records, in front of a real engine; what it wrote is run again."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner, Result

import tokenizer_service.__main__ as service
from folovllm.records.reading import read_records
from folovllm.records.record import Ending, RecordKind
from folovllm.sampling_params import SamplingParams
from folovllm.serving.healthcheck import TOKENIZER_SERVICE
from folovllm.serving.server import GrpcServer, ServerConfig
from folovllm.v1.tokenizer_service_pb2_grpc import add_TokenizerServiceServicer_to_server
from folovllm_client.api.async_client import AsyncClient
from folovllm_client.cli.commands import commands
from support.builders.engine_pools import until_ready
from support.processes.service_processes import ServiceProcess
from tokenizer_service.audit.audit import Audit
from tokenizer_service.audit.tally import Tally
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.model import TextModel
from tokenizer_service.servicer import TokenizerServicer

DEMO = Path(service.__file__).parents[1] / "folovllm" / "demo_model"


class Recording(NamedTuple):
    client: AsyncClient
    audit: Audit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.jsonl"


@pytest.fixture
async def recording(engine: ServiceProcess, path: Path) -> AsyncIterator[Recording]:
    """A service that records, and its client."""
    model = TextModel.from_folder(DEMO)
    audit = Audit(str(path), 0.0, Tally([engine.address]))
    pool = EnginePool([engine.address], model.fingerprints, on_finished=audit.take)
    audit.start(pool)
    server = GrpcServer(ServerConfig(), TOKENIZER_SERVICE)
    servicer = TokenizerServicer(
        model.tokenizer, pool, 10_000, model.chat_template, descriptions=audit.descriptions
    )
    add_TokenizerServiceServicer_to_server(servicer, server.grpc)
    port = server.bind()
    await server.start()
    pool.start()
    await until_ready(pool)
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        yield Recording(client, audit)
    await server.drain()
    await servicer.close()
    await pool.close()
    await audit.close()


async def fork(client: AsyncClient) -> None:
    """A branch of a request that runs, both to their ends."""
    parent = client.stream("Once", max_tokens=60, temperature=1.5, ignore_eos=True, request_id="p")
    await anext(parent)
    branches = [SamplingParams(max_tokens=5, seed=3, presence_penalty=0.5)]
    async for _ in client.fork("p", branches, fork_id="f"):
        pass
    async for _ in parent:
        pass


async def replay(path: Path, *arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, commands, ["replay", str(path), *arguments])


async def test_what_it_recorded_comes_again(
    recording: Recording, path: Path, engine: ServiceProcess, tokenizer: ServiceProcess
) -> None:
    client = recording.client
    await client.generate("Once upon a time", max_tokens=8, temperature=0.9, n=2, logprobs=1)
    stopped = await client.generate("Hello", max_tokens=30, temperature=0, stop=["e"])
    await client.chat("Hello", max_tokens=6)
    await fork(client)
    await recording.audit.close()
    records = {record.request_id: record for _, record in read_records(path)}
    assert [record.kind for record in records.values()].count(RecordKind.BRANCH) == 1
    assert records["f"].num_parent_output_tokens > 0
    (output,) = records[stopped.request_id].outputs
    assert output.ending is Ending.ABORT
    assert list(output.token_ids[: len(stopped.outputs[0].token_ids)]) == [
        *stopped.outputs[0].token_ids
    ]
    partly = await replay(path, "--server", tokenizer.address)
    assert partly.exit_code == 1, partly.output
    assert "FAIL  1 of 5 requests could not run" in partly.stdout
    assert "f[0]" in partly.stdout and "replay it with --local" in partly.stdout
    everywhere = (
        ("--server", engine.address),
        ("--local", "--dtype", "float32", "--device", "cpu"),
    )
    for arguments in everywhere:
        result = await replay(path, *arguments)
        assert result.exit_code == 0, result.output
        assert "PASS  5 requests equal" in result.stdout


def test_a_file_that_is_not_private_is_refused_before_anything_is_loaded(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path.touch(mode=0o644)
    monkeypatch.setattr(service, "configure_logging", lambda *_, **__: None)
    monkeypatch.setattr(service, "keep_large_blocks_apart", lambda: None)
    assert service.main(["--record", str(path), "--model", "/nowhere"]) == 1
    line = f"error: {path} may be read or written by others (mode 0644); `chmod 600` it\n"
    assert capsys.readouterr().err == line
