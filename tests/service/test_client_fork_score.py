"""fork and score of Client and AsyncClient, against a TokenizerService on a real socket."""

from collections.abc import Iterator

import pytest

from folovllm.errors import InvalidRequestError, NotFoundError
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams
from folovllm_client.api.async_client import AsyncClient
from folovllm_client.api.requests import Prompt
from folovllm_client.api.sync_client import Client
from support.fakes.tokenizer_service import FakeTokenizerService, running_fake

BRANCHES = [SamplingParams(seed=0), SamplingParams(seed=1, stop=("x",))]


@pytest.fixture
def fake() -> Iterator[FakeTokenizerService]:
    with running_fake() as fake:
        yield fake


def test_fork_streams_the_branches(fake: FakeTokenizerService) -> None:
    with Client(fake.address) as client:
        pieces = list(client.fork("forever", BRANCHES, 2, fork_id="mine"))
        with pytest.raises(NotFoundError):
            list(client.fork("other", BRANCHES))
        with pytest.raises(InvalidRequestError) as refused:
            list(client.fork("forever", BRANCHES, index=-1))
    assert refused.value.field == "index"
    with Client(fake.address) as client, pytest.raises(InvalidRequestError) as refused:
        client.fork("forever", [SamplingParams(), SamplingParams(stop=("\ud800",))])
    assert refused.value.field == "branches[1]"
    assert [branch.text for branch in RequestOutput.join(pieces).outputs] == ["a", "b"]
    sent = fake.forks[0]
    assert (sent.request_id, sent.index, sent.fork_id) == ("forever", 2, "mine")
    assert [SamplingParams.from_proto(branch) for branch in sent.branches] == BRANCHES


async def test_fork_streams_the_branches_to_asyncio(fake: FakeTokenizerService) -> None:
    async with AsyncClient(fake.address) as client:
        pieces = [piece async for piece in client.fork("forever", BRANCHES)]
        with pytest.raises(NotFoundError):
            _ = [piece async for piece in client.fork("other", BRANCHES)]
    assert [branch.text for branch in RequestOutput.join(pieces).outputs] == ["a", "b"]


async def test_scores_come_back(fake: FakeTokenizerService) -> None:
    given: list[Prompt] = ["ab", [7, 8, 9], {"prompt_token_ids": [5]}]
    with Client(fake.address) as client:
        output = client.score("text", given)
        assert client.score([1, 2], given) == output
        with pytest.raises(InvalidRequestError) as refused:
            client.score("text", [[-1]])
    assert refused.value.field == "continuations[0].token_ids"
    async with AsyncClient(fake.address) as async_client:
        assert await async_client.score("text", given) == output
    assert [score.token_ids for score in output.continuations] == [(97, 98), (7, 8, 9), (5,)]
    assert output.continuations[1].cumulative_logprob == -1.5
    assert output.continuations[1].is_greedy
