"""Fork and Score of the tokenizer service on real sockets, with a fake model behind the engine."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from engine_service.core.outputs import ModelRunnerOutput, ScheduledSequence, SchedulerOutput
from folovllm.errors import InvalidRequestError, NotFoundError, from_rpc_error
from folovllm.outputs import CompletionOutput, FinishReason, RequestOutput
from folovllm.score import ScoreOutput
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2
from support.builders.engine_pools import num_running
from support.builders.sample_tokenizers import save_byte_tokenizer
from support.fakes.engine_factory import make_engine
from support.fakes.model_runner import FakeModelRunner, expected_logprobs
from support.processes.joined_services import JoinedServices
from tokenizer_service.text.tokenizer import Tokenizer

Params = types_pb2.SamplingParams
TRUNK = "héllo wörld €uro 😀 and on and on".encode()
ENDS = {1: "é!".encode()[1:] + b"one stop two", 2: b" plain"}


class Parrot(FakeModelRunner):
    """Says TRUNK, or what ENDS has for the seed of a branch, whatever the prompt."""

    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        computed = super().execute(output)
        said = [
            [self._say(draw) for draw in scheduled.draws() if draw.sample_indexes]
            for scheduled in output.scheduled
        ]
        return ModelRunnerOutput(said, computed.logprobs, computed.prompt_logprobs)

    def _say(self, draw: ScheduledSequence) -> int:
        text = ENDS.get(draw.seed, TRUNK)
        done = draw.num_tokens - draw.num_prompt_tokens
        return text[(done - self.forked_at * (draw.seed in ENDS)) % len(text)]

    forked_at = 0
    """Output tokens of the parent at the fork."""


class Service(JoinedServices):
    runner: Parrot

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_folder(folder)
        llm_engine, _ = make_engine(tokenizer_fingerprint=self.tokenizer.fingerprint)
        llm_engine.runner = runner = Parrot(4)
        super().__init__(llm_engine, runner, self.tokenizer, max_prompt_bytes=3000)

    async def parent(self, num_steps: int) -> AsyncIterator[types_pb2.CompletionOutput]:
        """A running request "a" that is held in that step; its messages after the first."""
        self.runner.hold(after=num_steps - 1)
        self.runner.forked_at = num_steps
        params = Params(seed=7, max_tokens=len(TRUNK), ignore_eos=True)
        messages_ = aiter(
            self.stub.Generate(
                messages.GenerateRequest(request_id="a", text="hello", sampling_params=params)
            )
        )
        self.first = await anext(messages_)
        while not self.runner.is_held:  # what comes before that would be taken in too early
            await asyncio.sleep(0)
        return messages_

    async def until_forked(self) -> None:
        while self.engine.num_requests < 2:
            await asyncio.sleep(0)
        self.runner.release()


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    service = Service(save_byte_tokenizer(tmp_path))
    await service.start()
    yield service
    await service.stop()


async def refusal(call: object) -> Exception:
    with pytest.raises(grpc.RpcError) as refused:
        if isinstance(call, grpc.aio.UnaryStreamCall):
            _ = [message async for message in call]
        else:
            await call  # type: ignore[misc]
    return from_rpc_error(refused.value)


async def test_text_is_exact_over_a_fork_inside_a_character(service: Service) -> None:
    # Held in the second step: "h" and the first byte of "é" are said when the fork is made.
    parent = await service.parent(num_steps=2)
    branches = [
        Params(seed=1, max_tokens=9, stop=["stop"]),
        Params(seed=1, max_tokens=30, stop=["stop"]),
        Params(seed=2, max_tokens=6),
    ]
    fork = service.stub.Fork(types_pb2.ForkRequest(request_id="a", branches=branches))
    await service.until_forked()
    pieces = [CompletionOutput.from_proto(message) async for message in fork]
    result = RequestOutput.join(pieces)
    assert [branch.text for branch in result.outputs] == ["é!one sto", "é!one ", "\ufffd plain"]
    reasons = [(branch.finish_reason, branch.stop_reason) for branch in result.outputs]
    assert reasons == [
        (FinishReason.LENGTH, None),
        (FinishReason.STOP, "stop"),
        (FinishReason.LENGTH, None),
    ]
    assert bytes(result.outputs[1].token_ids) == ENDS[1][: len(ENDS[1]) - 4]
    for branch in result.outputs:
        assert branch.info is not None
        assert bytes(branch.info.parent_output_token_ids) == TRUNK[:2]
    assert result.outputs[1].info and result.outputs[1].info.sampling_params.stop == ("stop",)
    text = service.first.text + "".join([message.text async for message in parent])
    assert text == TRUNK.decode()


async def test_bad_words_of_a_branch_are_resolved(service: Service) -> None:
    parent = await service.parent(num_steps=2)
    branch = Params(seed=2, max_tokens=3, bad_words=["hello"])
    fork = service.stub.Fork(types_pb2.ForkRequest(request_id="a", branches=[branch]))
    await service.until_forked()
    result = RequestOutput.join([CompletionOutput.from_proto(m) async for m in fork])
    info = result.outputs[0].info
    assert info and info.sampling_params.bad_words == ("hello",)
    assert (259,) in info.sampling_params.bad_words_token_ids
    assert [message async for message in parent]


async def test_bad_forks_are_refused(service: Service) -> None:
    request = types_pb2.ForkRequest(request_id="a", branches=[Params()])
    assert isinstance(await refusal(service.stub.Fork(request)), NotFoundError)
    for branches, field in (
        ([], "branches"),
        ([Params()] * 129, "branches"),
        ([Params(), Params(top_p=2.0)], "branches[1].top_p"),
    ):
        request = types_pb2.ForkRequest(request_id="a", branches=branches)
        error = await refusal(service.stub.Fork(request))
        assert isinstance(error, InvalidRequestError) and error.field == field
    parent = await service.parent(num_steps=2)
    request = types_pb2.ForkRequest(request_id="a", branches=[Params(n=2)])
    error = await refusal(service.stub.Fork(request))
    assert isinstance(error, InvalidRequestError) and error.field == "branches[0].n"
    service.runner.release()
    assert [message async for message in parent]
    assert num_running(service.pool) == [0]


async def test_cancelling_a_fork_reaches_the_engine(service: Service) -> None:
    parent = await service.parent(num_steps=2)
    request = types_pb2.ForkRequest(request_id="a", branches=[Params(max_tokens=100)] * 2)
    fork = service.stub.Fork(request)
    while service.engine.num_requests < 2:
        await asyncio.sleep(0)
    fork.cancel()
    while not all(s._closed for name, s in service.engine._streams.items() if name != "a"):
        await asyncio.sleep(0)
    service.runner.release()
    assert [message async for message in parent]
    while service.engine.num_requests or service.engine.load.num_free_kv_blocks != 64:
        await asyncio.sleep(0)


async def test_text_is_scored(service: Service) -> None:
    Continuation = types_pb2.ScoreRequest.Continuation
    request = types_pb2.ScoreRequest(
        request_id="mine",
        text="hello ",
        continuations=[
            Continuation(text="w"),
            Continuation(text="you"),
            Continuation(token_ids=types_pb2.TokenIds(ids=[9, 8])),
        ],
    )
    output = ScoreOutput.from_proto(await service.stub.Score(request))
    assert output.request_id == "mine"
    wholes = [([259], [260]), ([259], [*b" you"]), ([259, 32], [9, 8])]
    for (prompt, ids), score in zip(wholes, output.continuations, strict=True):
        expected = expected_logprobs([*prompt, *ids], len(prompt), 0)
        assert list(score.token_ids) == ids
        assert list(score.logprobs) == [position.token.logprob for position in expected]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"continuations": [{"text": "a"}]}, "prompt"),
        ({"text": "a"}, "continuations"),
        ({"text": "a", "continuations": [{"text": "a"}] * 129}, "continuations"),
        ({"text": "a" * 2990, "continuations": [{"text": "a" * 11}]}, "continuations"),
        ({"text": "a" * 200, "continuations": [{"text": "a"}]}, "prompt"),
        ({"text": "a", "continuations": [{"text": "b"}, {}]}, "continuations[1].continuation"),
        ({"text": "a", "continuations": [{"text": "b" * 128}]}, "continuations[0]"),
        ({"text": "a", "continuations": [{"token_ids": {"ids": [1000]}}]}, "continuations[0]"),
    ],
)
async def test_bad_scores_name_their_field(
    service: Service, fields: dict[str, object], field: str
) -> None:
    error = await refusal(service.stub.Score(types_pb2.ScoreRequest(**fields)))  # type: ignore[arg-type]
    assert isinstance(error, InvalidRequestError) and error.field == field
