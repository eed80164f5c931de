"""The tokenizer's calls of the clients, through the real services."""

import asyncio
from pathlib import Path

import tokenizers

from folovllm import AsyncClient, Client, SamplingParams
from folovllm.model_files import DEMO_MODEL
from support.processes.service_processes import ServiceProcess

TEXTS = ["Once upon a time", "", "🙂 你好 é"]


def test_texts_and_ids_there_and_back(tokenizer: ServiceProcess) -> None:
    with Client(tokenizer.address, timeout=30) as client:
        ids = client.tokenize(TEXTS)
        assert ids == [client.tokenize(text) for text in TEXTS]
        assert client.detokenize(ids) == TEXTS
        assert client.count_tokens(TEXTS[0]) == len(ids[0])


def test_ids_of_an_engine_stream_into_the_text_of_the_service(tokenizer: ServiceProcess) -> None:
    params = SamplingParams(max_tokens=60, seed=1, stop=("a",), min_tokens=8, ignore_eos=True)

    async def streamed() -> tuple[str, str]:
        async with AsyncClient(tokenizer.address, timeout=60) as client:
            output = (await client.generate("Once upon", params)).outputs[0]
            free = params.clone(stop=())
            pieces = (piece.token_ids async for piece in client.stream("Once upon", free))
            deltas = [delta async for delta in client.stream_detokenize(pieces, params)]
            assert deltas[-1].finished and deltas[-1].stop_string == output.stop_reason
            assert deltas[-1].num_token_ids == len(output.token_ids)
            return "".join(delta.text for delta in deltas), output.text

    ours, the_services = asyncio.run(streamed())
    assert ours == the_services


def test_the_saved_tokenizer_is_the_services(tokenizer: ServiceProcess, tmp_path: Path) -> None:
    with Client(tokenizer.address, timeout=30) as client:
        paths = client.save_tokenizer(tmp_path)
        assert all(path.read_bytes() == (DEMO_MODEL / path.name).read_bytes() for path in paths)
        saved = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        assert [encoding.ids for encoding in saved.encode_batch(TEXTS)] == client.tokenize(TEXTS)
