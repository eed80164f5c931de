"""With speculation a real model gives the tokens and log-probabilities that it gives without."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine_service.core.outputs import ModelRunnerOutput, SchedulerOutput
from engine_service.core.request import Request
from engine_service.engine.factory import build_engine
from engine_service.engine.llm_engine import LLMEngine
from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.sampling_params import SamplingParams
from support.builders.tiny_models import VOCAB_SIZE, make_checkpoint, reference_model
from support.twins.exact_sampling import exact_distribution, p_value

STEPS = 48
# Among few tokens the same pairs come again, so there is something to guess.
FEW = SamplingParams(max_tokens=STEPS, allowed_token_ids=(30, 31, 32, 33), temperature=0.7, seed=5)
CASES = {
    "greedy": FEW.clone(temperature=0.0),
    "sampled": FEW,
    "filtered": FEW.clone(top_p=0.8, min_p=0.05, top_k=3),
    "penalised": FEW.clone(frequency_penalty=0.05, presence_penalty=0.1, repetition_penalty=1.05),
    "biased": FEW.clone(logit_bias={30: 2.0, 31: -1.0}),
    "log-probabilities": FEW.clone(logprobs=3, prompt_logprobs=1),
    "bad words": FEW.clone(bad_words_token_ids=((30, 31), (32,), (33, 33, 30))),
    "min_tokens": FEW.clone(min_tokens=20, stop_token_ids=(31,)),
    "greedy until it stops": FEW.clone(temperature=0.0, min_tokens=9, stop_token_ids=(30, 31)),
    "n": FEW.clone(n=3),
    "all tokens": SamplingParams(max_tokens=STEPS, temperature=0.0, ignore_eos=True),
}


class Counting:
    """A runner that counts the drafts of its steps."""

    def __init__(self, engine: LLMEngine) -> None:
        self._runner = engine.runner
        engine.runner = self
        self.num_drafts = 0

    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        self.num_drafts += sum(len(each.draft_token_ids) for each in output.scheduled)
        return self._runner.execute(output)


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randint(2, VOCAB_SIZE, (length,), generator=generator).tolist() * 3
        for length in (2, 5, 11)
    ]


def engine_of(
    folder: Path,
    speculation: str,
    dtype: str = "float32",
    deterministic: bool = False,
    max_num_seqs: int = 64,
) -> tuple[LLMEngine, Counting]:
    engine = build_engine(
        EngineConfig(
            ModelConfig(str(folder), dtype, device="cpu", deterministic=deterministic),
            CacheConfig(block_size=4, num_blocks=300),
            SchedulerConfig(max_num_seqs, speculation=speculation),
        )
    )
    return engine, Counting(engine)


def answers(engine: LLMEngine, params: Sequence[SamplingParams]) -> list[CompletionOutput]:
    """To every prompt with each of the parameters; one set of parameters at a time."""
    outputs: list[CompletionOutput] = []
    for number, each in enumerate(params):
        results = {f"{number} {index}": RequestOutput() for index in range(len(prompts()))}
        for name, prompt in zip(results, prompts(), strict=True):
            engine.add_request(Request(name, prompt, each, seed=9))
        while engine.has_unfinished_requests():
            for output in engine.step():
                results[output.request_id].add(output)
        outputs += [output for result in results.values() for output in result.outputs]
    return outputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("qwen3_grouped", tmp_path_factory.mktemp("speculation"), seed=6)


@pytest.mark.parametrize("case", CASES)
def test_tokens_and_log_probabilities_are_those_without_speculation(
    folder: Path, case: str
) -> None:
    plain, none = engine_of(folder, "none")
    speculating, some = engine_of(folder, "ngram")
    expected, found = (answers(engine, [CASES[case]]) for engine in (plain, speculating))
    assert none.num_drafts == 0 < some.num_drafts
    for output, wanted in zip(found, expected, strict=True):
        assert output.token_ids == wanted.token_ids
        assert output.finish_reason == wanted.finish_reason
        assert output.stop_reason == wanted.stop_reason
        assert len(output.logprobs) == len(wanted.logprobs)
        for position, wanted_position in zip(output.logprobs, wanted.logprobs, strict=True):
            assert position.token.token_id == wanted_position.token.token_id
            assert position.token.rank == wanted_position.token.rank
            assert position.token.logprob == pytest.approx(wanted_position.token.logprob, abs=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_deterministic_tokens_are_the_same_bits(tmp_path: Path, dtype: str) -> None:
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    folder = make_checkpoint("qwen3_grouped", tmp_path / dtype, seed=6, dtype=types[dtype])
    params = [CASES[case] for case in ("greedy", "sampled", "log-probabilities")]
    plain, _ = engine_of(folder, "none", dtype, deterministic=True)
    speculating, some = engine_of(folder, "ngram", dtype, deterministic=True)
    expected, found = (answers(engine, params) for engine in (plain, speculating))
    assert some.num_drafts > 0
    for output, wanted in zip(found, expected, strict=True):
        assert output.token_ids == wanted.token_ids
        assert output.logprobs == wanted.logprobs


def test_what_is_drawn_beside_drafts_is_distributed_as_the_model_says(folder: Path) -> None:
    """Of many seeds the token after the first one, whose step also computes a guess of it."""
    prompt = [31, 30, 31, 31, 31, 32, 31, 33, 30, 30, 31]  # 31 and any other of FEW are a pair
    params = FEW.clone(max_tokens=3, temperature=1.5, seed=None)
    engine, counting = engine_of(folder, "ngram", max_num_seqs=1)
    for seed in range(700):
        engine.add_request(Request(str(seed), prompt, params, seed=seed))
    drawn: dict[str, list[int]] = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            drawn.setdefault(output.request_id, []).extend(output.token_ids)
    assert counting.num_drafts > 500
    for first in params.allowed_token_ids:
        second = np.array([ids[1] for ids in drawn.values() if ids[0] == first])
        with torch.no_grad():
            logits = reference_model(folder)(torch.tensor([[*prompt, first]])).logits[0, -1]
        expected = exact_distribution(logits, params, prompt, [first])
        assert len(second) < 50 or p_value(second, expected) > 1e-3
