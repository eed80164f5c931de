"""Branches and scores through LLM on a tiny model: exact tokens and text, transformers' numbers."""

from pathlib import Path

import pytest
import torch

from folovllm.errors import InvalidRequestError
from folovllm.sampling_params import SamplingParams
from folovllm_client.llm.llm import LLM
from support.builders.sample_tokenizers import VOCAB_SIZE, save_byte_tokenizer
from support.builders.tiny_models import make_checkpoint, reference_model

GENERATOR = torch.Generator().manual_seed(3)
PROMPT = {"prompt_token_ids": torch.randint(2, VOCAB_SIZE, (33,), generator=GENERATOR).tolist()}
GREEDY = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
BRANCHES = [
    GREEDY,
    *(SamplingParams(seed=seed, max_tokens=12 + seed, ignore_eos=True) for seed in range(3)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_checkpoint("qwen3_tied", tmp_path_factory.mktemp("fork"), seed=4)
    return save_byte_tokenizer(folder)


@pytest.fixture(scope="module", params=[(200, 16, 512), (26, 3, 8)], ids=["roomy", "tight"])
def llm(request: pytest.FixtureRequest, folder: Path) -> LLM:
    num_blocks, max_num_seqs, budget = request.param
    return LLM(
        str(folder),
        dtype="float32",
        device="cpu",
        block_size=4,
        num_gpu_blocks_override=num_blocks,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget,
    )


@pytest.mark.parametrize("after", [1, 6, 7])
def test_a_branch_equals_a_fresh_request_of_its_prefix(llm: LLM, after: int) -> None:
    trunk, forked = llm.generate_branches(PROMPT, GREEDY, BRANCHES, after)
    (alone,) = llm.generate(PROMPT, GREEDY, use_tqdm=False)
    assert trunk.outputs[0].token_ids == alone.outputs[0].token_ids
    assert forked.prompt_token_ids == alone.prompt_token_ids + alone.outputs[0].token_ids[:after]
    prefix = {"prompt_token_ids": forked.prompt_token_ids}
    fresh = llm.generate([prefix] * 4, BRANCHES, use_tqdm=False)
    for branch, other in zip(forked.outputs, fresh, strict=True):
        assert branch.token_ids == other.outputs[0].token_ids
    # The text of a branch goes on where that of the trunk's first tokens ends.
    begun = trunk.outputs[0].token_ids[:after]
    whole = llm.get_tokenizer().decode([*begun, *forked.outputs[1].token_ids])
    assert whole.endswith(forked.outputs[1].text)
    assert not llm.llm_engine.has_unfinished_requests()


def test_text_is_exact_where_the_fork_splits_a_character(llm: LLM) -> None:
    """The trunk says the first byte of a character; the branches end it in their own ways."""

    def only(byte: int, max_tokens: int = 1) -> SamplingParams:
        return GREEDY.clone(max_tokens=max_tokens, allowed_token_ids=[byte])

    branches = [only(0xA9), only(0xA4), only(ord("!"))]
    trunk, forked = llm.generate_branches("hello", only(0xC3, 4), branches, after=1)
    assert trunk.outputs[0].text == "\ufffd" * 4
    assert [branch.text for branch in forked.outputs] == ["é", "ä", "\ufffd!"]


def test_a_trunk_that_ends_early_has_no_branches(llm: LLM) -> None:
    trunk, forked = llm.generate_branches(PROMPT, GREEDY.clone(max_tokens=3), BRANCHES, 3)
    assert trunk.finished and forked.outputs == []
    for branches, after, field in (
        (BRANCHES, 0, "after"),
        ([GREEDY.clone(n=2)], 3, "branches[0].n"),
        ([GREEDY, GREEDY.clone(max_tokens=500)], 3, "branches[1].max_tokens"),
        ([GREEDY.clone(prompt_logprobs=1)], 3, "branches[0].prompt_logprobs"),
        ([GREEDY.clone(truncate_prompt_tokens=1)], 3, "branches[0].truncate_prompt_tokens"),
    ):
        with pytest.raises(InvalidRequestError) as refused:
            llm.generate_branches(PROMPT, GREEDY, branches, after)
        assert refused.value.field == field


def test_scores_equal_log_softmax_and_prompt_logprobs(llm: LLM, folder: Path) -> None:
    prompt = PROMPT["prompt_token_ids"]
    (says,) = llm.generate(PROMPT, GREEDY.clone(max_tokens=9), use_tqdm=False)
    continuations = [
        says.outputs[0].token_ids,
        *(torch.randint(2, VOCAB_SIZE, (n,), generator=GENERATOR).tolist() for n in (1, 2, 17)),
    ]
    for _ in range(2):  # the second time with all of it in the prefix cache
        output = llm.score(PROMPT, continuations)
        assert [list(score.token_ids) for score in output.continuations] == continuations
        assert [score.is_greedy for score in output.continuations] == [True, False, False, False]
        for score in output.continuations:
            tokens = [*prompt, *score.token_ids]
            check(folder, llm, tokens, score.logprobs, score.ranks)


def check(
    folder: Path, llm: LLM, tokens: list[int], logprobs: tuple[float, ...], ranks: tuple[int, ...]
) -> None:
    with torch.no_grad():
        exact = reference_model(folder)(torch.tensor([tokens])).logits[0].log_softmax(-1)
    start = len(tokens) - len(logprobs)
    for position, (logprob, rank) in enumerate(zip(logprobs, ranks, strict=True), start):
        row = exact[position - 1]
        assert logprob == pytest.approx(float(row[tokens[position]]), abs=1e-4)
        assert rank == 1 + int((row > row[tokens[position]] + 1e-5).sum())
    params = SamplingParams(max_tokens=1, prompt_logprobs=0)
    (given,) = llm.generate({"prompt_token_ids": tokens}, params, use_tqdm=False)
    assert given.info is not None
    theirs = [position.token for position in given.info.prompt_logprobs[start:]]
    assert [token.rank for token in theirs] == list(ranks)
    assert [token.logprob for token in theirs] == pytest.approx(logprobs, abs=1e-5)


def test_text_is_scored_as_one(llm: LLM) -> None:
    output = llm.score("he said ", ["hello", "w", [5, 6]])
    texts = [llm.get_tokenizer().decode(score.token_ids) for score in output.continuations]
    assert texts == [" hello", " w", "\x05\x06"]
    # " w" is one token, so the space cannot have been scored apart from it.
    assert output.continuations[1].token_ids == (260,)
    by_ids = llm.score(
        llm.get_tokenizer().encode("he said"), [llm.get_tokenizer().encode(" hello")]
    )
    expected = by_ids.continuations[0].logprobs
    assert output.continuations[0].logprobs == pytest.approx(expected, abs=1e-5)
