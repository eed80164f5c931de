"""Log-probabilities of prompt and output through LLM equal transformers' log-softmax."""

from pathlib import Path

import pytest
import torch

from folovllm.logprobs import PositionLogprobs
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams
from folovllm_client.llm.llm import LLM
from support.builders.sample_tokenizers import VOCAB_SIZE, save_byte_tokenizer
from support.builders.tiny_models import make_checkpoint, reference_model

STEPS = 24
ASKING = SamplingParams(
    n=3, seed=1, max_tokens=STEPS, min_tokens=STEPS, logprobs=5, prompt_logprobs=3
)
PROMPTS = [
    {"prompt_token_ids": torch.randint(2, VOCAB_SIZE, (length,), generator=generator).tolist()}
    for generator in [torch.Generator().manual_seed(3)]
    for length in (1, 2, 33, 70)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_checkpoint("qwen3_tied", tmp_path_factory.mktemp("logprobs"), seed=4)
    return save_byte_tokenizer(folder)


class Reference:
    """transformers' log-softmax over whole sequences."""

    def __init__(self, folder: Path) -> None:
        self._model = reference_model(folder)

    @torch.no_grad()
    def check(self, tokens: list[int], found: list[PositionLogprobs], num_tops: int) -> None:
        """Compares log-probability, rank and candidates of the last tokens."""
        exact = self._model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
        for position, logprobs in enumerate(found, len(tokens) - len(found)):
            row = exact[position - 1]
            assert logprobs.token.token_id == tokens[position]
            assert len(logprobs.top) == num_tops
            for one in (logprobs.token, *logprobs.top):
                assert one.logprob == pytest.approx(float(row[one.token_id]), abs=1e-4)
                assert one.rank == 1 + int((row > row[one.token_id] + 1e-5).sum())
            best = row.topk(num_tops).values.tolist()
            assert [top.logprob for top in logprobs.top] == pytest.approx(best, abs=1e-4)

    def check_output(self, output: RequestOutput) -> None:
        for each in output.outputs:
            assert len(each.logprobs) == len(each.token_ids) == STEPS
            self.check([*output.prompt_token_ids, *each.token_ids], each.logprobs, 5)
            total = sum(position.token.logprob or 0.0 for position in each.logprobs)
            assert each.cumulative_logprob == pytest.approx(total, abs=1e-4)

    def check_prompt(self, output: RequestOutput) -> None:
        assert output.info is not None
        first, *others = output.info.prompt_logprobs
        assert (first.token.logprob, first.token.rank, first.top) == (None, None, ())
        assert first.token.token_id == output.prompt_token_ids[0]
        assert len(others) == len(output.prompt_token_ids) - 1
        self.check(output.prompt_token_ids, others, 3)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


@pytest.mark.parametrize(
    ("num_blocks", "max_num_seqs", "budget"),
    [(200, 16, 512), (200, 4, 8), (28, 12, 16)],
    ids=["whole", "chunked", "preempted"],
)
def test_they_equal_log_softmax(
    folder: Path, reference: Reference, num_blocks: int, max_num_seqs: int, budget: int
) -> None:
    llm = LLM(
        str(folder),
        dtype="float32",
        device="cpu",
        block_size=4,
        num_gpu_blocks_override=num_blocks,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget,
    )
    outputs = llm.generate(PROMPTS, ASKING, use_tqdm=False)
    for output in outputs:
        reference.check_prompt(output)
        reference.check_output(output)
    preemptions = [o.metrics.preemptions for each in outputs for o in each.outputs if o.metrics]
    assert (sum(preemptions) > 0) == (num_blocks == 28)
    # The prompts are cached now: outputs may come after a hit, prompts are computed again.
    for params, cached in ((ASKING.clone(prompt_logprobs=None), 68), (ASKING, 0)):
        (again,) = llm.generate(PROMPTS[-1:], params, use_tqdm=False)
        reference.check_output(again)
        assert again.info and again.info.cached_tokens == cached
        assert [o.token_ids for o in again.outputs] == [o.token_ids for o in outputs[-1].outputs]
    reference.check_prompt(again)


def test_processing_changes_draws_and_no_logprob(folder: Path, reference: Reference) -> None:
    llm = LLM(str(folder), dtype="float32", device="cpu", num_gpu_blocks_override=40)
    params = ASKING.clone(
        temperature=0.3,
        top_k=3,
        repetition_penalty=1.7,
        presence_penalty=1.0,
        logit_bias={5: 8.0},
        allowed_token_ids=range(250),
        bad_words_token_ids=[[7], [5, 5]],
    )
    (output,) = llm.generate(PROMPTS[-1:], params, use_tqdm=False)
    reference.check_prompt(output)
    reference.check_output(output)
    for each in output.outputs:
        assert max(each.token_ids) < 250 and 7 not in each.token_ids
        assert (5, 5) not in zip(each.token_ids, each.token_ids[1:], strict=False)
    # A run can be repeated from what it tells about itself.
    assert output.info
    prompt = {"prompt_token_ids": output.prompt_token_ids}
    (again,) = llm.generate(prompt, output.info.sampling_params, use_tqdm=False)
    assert again.info == output.info
    assert [o.logprobs for o in again.outputs] == [o.logprobs for o in output.outputs]


def test_bad_words_and_the_models_own_repetition_penalty(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"repetition_penalty": 1.25, "top_k": 50}')
    llm = LLM(str(folder), dtype="float32", device="cpu", num_gpu_blocks_override=40)
    (output,) = llm.generate("hello", use_tqdm=False)
    assert output.info and output.info.sampling_params.repetition_penalty == 1.25
    params = SamplingParams(temperature=0.0, max_tokens=40, bad_words=("hello", " w"))
    (output,) = llm.generate("hello", params, use_tqdm=False)
    assert output.info and output.info.sampling_params.bad_words == ("hello", " w")
    assert not {259, 260, 119} & set(output.outputs[0].token_ids)
