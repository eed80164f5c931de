"""Text through both real services."""

import asyncio
import random

import grpc
import pytest

from folovllm import AsyncClient, Client, DeadlineError, InvalidRequestError, SamplingParams
from folovllm.outputs import RequestOutput
from folovllm.v1 import engine_service_pb2, engine_service_pb2_grpc, types_pb2
from support.processes.service_processes import ServiceProcess

STARTS = ["Once upon a time", "The capital of France is", "Hello", "1 + 2 =", "你好", "🙂 Anna and"]


def load(engine: ServiceProcess) -> engine_service_pb2.GetLoadResponse:
    with grpc.insecure_channel(engine.address) as channel:
        stub = engine_service_pb2_grpc.EngineServiceStub(channel)
        return stub.GetLoad(engine_service_pb2.GetLoadRequest(), timeout=10)


def until_baseline(engine: ServiceProcess) -> engine_service_pb2.GetLoadResponse:
    """The load once nothing runs; pytest's timeout bounds the wait."""
    while (found := load(engine)).num_requests or found.num_running or found.num_waiting:
        pass
    return found


def test_64_streams_at_once_answer_as_each_alone(
    engine: ServiceProcess, tokenizer: ServiceProcess
) -> None:
    chance = random.Random(1)
    asked = []
    for number in range(64):
        prompt = " ".join(chance.choices(STARTS, k=chance.randint(1, 12))) + f" {number}"
        params = SamplingParams(
            temperature=0.0, max_tokens=chance.randint(1, 40), n=1 + (number % 16 == 0)
        )
        asked.append((prompt, params))

    async def read(client: AsyncClient, prompt: str, params: SamplingParams) -> RequestOutput:
        result = RequestOutput()
        async for output in client.stream(prompt, params):
            result.add(output)
        return result

    async def all_of_them() -> tuple[list[RequestOutput], list[RequestOutput]]:
        async with AsyncClient(tokenizer.address, timeout=120) as client:
            alone = [await read(client, *request) for request in asked]
            together = await asyncio.gather(*(read(client, *request) for request in asked))
        return alone, together

    alone, together = asyncio.run(all_of_them())
    for one, other in zip(alone, together, strict=True):
        assert one.finished and other.finished
        for ours, theirs in zip(one.outputs, other.outputs, strict=True):
            assert (ours.text, ours.token_ids) == (theirs.text, theirs.token_ids)
            assert (ours.finish_reason, ours.stop_reason) == (
                theirs.finish_reason,
                theirs.stop_reason,
            )
    found = until_baseline(engine)
    with Client(tokenizer.address) as client:
        assert found.num_free_kv_blocks == client.model_info().num_kv_blocks


def test_the_same_seed_gives_the_same_text_and_another_does_not(tokenizer: ServiceProcess) -> None:
    with Client(tokenizer.address, timeout=60) as client:
        first, again, other = (
            client.generate("Once", SamplingParams(temperature=1.5, max_tokens=30, seed=seed))
            for seed in (5, 5, 6)
        )
        drawn = client.generate("Once", SamplingParams(temperature=1.5, max_tokens=30))
        assert drawn.info is not None
        repeated = client.generate("Once", drawn.info.sampling_params)
    assert first.outputs[0].text == again.outputs[0].text != other.outputs[0].text
    assert repeated.outputs[0].token_ids == drawn.outputs[0].token_ids


def test_logprobs_of_an_output_are_those_of_the_same_tokens_as_a_prompt(
    tokenizer: ServiceProcess,
) -> None:
    params = SamplingParams(n=2, seed=3, max_tokens=12, min_tokens=12, logprobs=2)
    with Client(tokenizer.address, timeout=60) as client:
        prompt = client.tokenize("Once upon a time")
        drawn = client.generate(prompt, params)
        for output in drawn.outputs:
            given = client.generate(
                [*prompt, *output.token_ids], SamplingParams(max_tokens=1, prompt_logprobs=2)
            )
            assert given.info is not None
            scored = given.info.prompt_logprobs[len(prompt) :]
            assert [p.token.token_id for p in scored] == output.token_ids
            for ours, theirs in zip(output.logprobs, scored, strict=True):
                assert ours.token.logprob == pytest.approx(theirs.token.logprob, abs=1e-4)
                assert ours.token.rank == theirs.token.rank
                assert [t.token_id for t in ours.top] == [t.token_id for t in theirs.top]


def test_bad_words_do_not_come(tokenizer: ServiceProcess) -> None:
    with Client(tokenizer.address, timeout=60) as client:
        free = client.generate("Once upon a time", SamplingParams(temperature=0.0, max_tokens=20))
        words = tuple(free.outputs[0].text.split()[:3])
        params = SamplingParams(temperature=0.0, max_tokens=20, bad_words=words)
        bound = client.generate("Once upon a time", params)
    assert bound.outputs[0].token_ids[0] != free.outputs[0].token_ids[0]
    assert bound.info is not None and bound.info.sampling_params.bad_words == words


def test_a_stop_string_over_token_borders(tokenizer: ServiceProcess) -> None:
    with Client(tokenizer.address, timeout=60) as client:
        whole = client.generate("Once upon a time", SamplingParams(temperature=0.0, max_tokens=40))
        text = whole.outputs[0].text
        stop = text[11:19]
        params = SamplingParams(temperature=0.0, max_tokens=40, stop=(stop,), n=2)
        for output in client.generate("Once upon a time", params).outputs:
            assert output.text == text[: text.index(stop)]
            assert (output.finish_reason, output.stop_reason) == ("stop", stop)
            assert output.usage and output.usage.completion_tokens == len(output.token_ids) < 40


BAD: list[tuple[object, dict[str, object], str]] = [
    ("", {}, "text"),
    ([], {}, "token_ids"),
    ("word " * 5000, {}, "text"),
    ([5] * 5000, {}, "token_ids"),
    ("Hello", {"max_tokens": 100_000}, "sampling_params.max_tokens"),
    ([10_000_000], {}, "token_ids"),
    ("Hello", {"top_p": 0.0}, "sampling_params.top_p"),
    ("Hello", {"top_p": 1.5}, "sampling_params.top_p"),
    ("Hello", {"temperature": -1.0}, "sampling_params.temperature"),
    ("Hello", {"temperature": float("nan")}, "sampling_params.temperature"),
    ("Hello", {"n": 0}, "sampling_params.n"),
    ("Hello", {"n": 1000}, "sampling_params.n"),
    ("Hello", {"stop": [""]}, "sampling_params.stop[0]"),
    ("Hello", {"max_tokens": 0}, "sampling_params.max_tokens"),
    ("Hello", {"logprobs": 21}, "sampling_params.logprobs"),
    ("Hello", {"bad_words": [""]}, "sampling_params.bad_words[0]"),
    ("Hello", {"allowed_token_ids": [10_000_000]}, "sampling_params.allowed_token_ids"),
    ("Hello", {"json_schema": "{"}, "sampling_params.json_schema"),
    ("Hello", {"regex": "("}, "sampling_params.regex"),
]


@pytest.mark.parametrize(("prompt", "params", "field"), BAD)
def test_bad_input_is_named(
    tokenizer: ServiceProcess, prompt: str | list[int], params: dict[str, object], field: str
) -> None:
    from folovllm.v1 import tokenizer_service_pb2

    message = tokenizer_service_pb2.GenerateRequest(
        sampling_params=types_pb2.SamplingParams(**params)  # type: ignore[arg-type]
    )
    if isinstance(prompt, str):
        message.text = prompt
    else:
        message.token_ids.CopyFrom(types_pb2.TokenIds(ids=prompt))
    with Client(tokenizer.address, timeout=60) as client:
        with pytest.raises(InvalidRequestError) as refused:
            list(client.send(message, timeout=60))
        assert refused.value.field == field
        assert client.generate("Hello", SamplingParams(max_tokens=1)).finished


def test_no_prompt_at_all_is_named(tokenizer: ServiceProcess) -> None:
    from folovllm.v1 import tokenizer_service_pb2

    with (
        Client(tokenizer.address, timeout=60) as client,
        pytest.raises(InvalidRequestError) as refused,
    ):
        list(client.send(tokenizer_service_pb2.GenerateRequest(), timeout=60))
    assert refused.value.field == "prompt"


def test_a_cancelled_client_frees_its_blocks(
    engine: ServiceProcess, tokenizer: ServiceProcess
) -> None:
    params = SamplingParams(max_tokens=1000, ignore_eos=True, n=4)
    with Client(tokenizer.address, timeout=60) as client:
        info = client.model_info()
        stream = client.stream("Once upon a time", params)
        next(stream)
        assert load(engine).num_requests == 1
        stream.close()
        assert until_baseline(engine).num_free_kv_blocks == info.num_kv_blocks


def test_a_deadline_reaches_the_engine(engine: ServiceProcess, tokenizer: ServiceProcess) -> None:
    params = SamplingParams(max_tokens=1000, ignore_eos=True, n=16)
    with Client(tokenizer.address) as client, pytest.raises(DeadlineError, match=r"within 0\.3 s"):
        client.generate("Once upon a time", params, timeout=0.3)
    until_baseline(engine)
