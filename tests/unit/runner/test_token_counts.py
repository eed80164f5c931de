"""Counts kept from step to step: the same penalties, each token looked at once, nothing left."""

import gc
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine_service.core.outputs import ScheduledSequence
from engine_service.core.request import Branch, Request
from engine_service.core.sequence_parts.runner_state import RunnerState
from engine_service.engine.factory import build_engine
from engine_service.engine.llm_engine import LLMEngine
from engine_service.runner.sampling.logits_processors import process_logits
from engine_service.runner.sampling.token_counts import TokenCounts
from folovllm.sampling_params import SamplingParams
from support.builders.tiny_models import make_checkpoint

VOCAB_SIZE = 12
ids = st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=8)
penalties = st.builds(
    SamplingParams,
    presence_penalty=st.sampled_from((0.0, 0.7)),
    frequency_penalty=st.sampled_from((0.0, -0.4)),
    repetition_penalty=st.sampled_from((1.0, 1.3)),
)


def drawing(
    params: SamplingParams,
    history: Sequence[int],
    num_prompt_tokens: int,
    state: RunnerState | None = None,
    drafts: tuple[int, ...] = (),
) -> ScheduledSequence:
    return ScheduledSequence(
        seq_id=0,
        token_ids=(0, *drafts),
        num_computed_tokens=len(history) - 1,
        block_table=(0,),
        sampling_params=params,
        seed=0,
        sample_indexes=(0,),
        token_history=history,
        num_prompt_tokens=num_prompt_tokens,
        draft_token_ids=drafts,
        draft_forbidden_token_ids=((),) * len(drafts),
        runner_state=state,
    )


def by_definition(
    logits: torch.Tensor, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]
) -> torch.Tensor:
    """In float32 and in the order of the sampler, token by token."""
    logits = logits.clone()
    for token_id in {*prompt, *output}:
        value = logits[token_id]
        strength = torch.tensor(params.repetition_penalty)
        logits[token_id] = value / strength if value > 0 else value * strength
    for token_id, count in Counter(output).items():
        each = torch.tensor(count) * torch.tensor(params.frequency_penalty)
        logits[token_id] -= each + torch.tensor(params.presence_penalty)
    return logits


@settings(max_examples=80, deadline=None)
@given(ids, st.lists(ids, min_size=1, max_size=4), st.lists(penalties, min_size=2, max_size=2), ids)
def test_penalties_are_those_of_the_definition_step_by_step_in_forks_and_after_drafts(
    prompt: list[int], added: list[list[int]], params: list[SamplingParams], drafts: list[int]
) -> None:
    logits = torch.randn(VOCAB_SIZE, generator=torch.Generator().manual_seed(len(prompt)))
    histories = [[3, *prompt], [3, *prompt]]
    num_prompt_tokens = len(histories[0])
    states = [RunnerState()]
    for number, tokens in enumerate(added):
        if number == len(added) // 2:
            states.append(states[0].fork())
            histories[1] = histories[0].copy()
        histories[0] += tokens
        histories[1] += tokens[::-1][:3] if len(states) > 1 else []
        rows = [
            draw
            for own, history, state in zip(params, histories, states, strict=False)
            for draw in drawing(own, history, num_prompt_tokens, state, tuple(drafts)).draws()
        ]
        found = process_logits(logits.repeat(len(rows), 1), rows)
        for row, sequence in zip(found, rows, strict=True):
            output = [*sequence.token_history[num_prompt_tokens:], *sequence.assumed_token_ids]
            own = sequence.sampling_params
            expected = by_definition(logits, own, histories[0][:num_prompt_tokens], output)
            assert torch.equal(row, expected)
            alone = process_logits(logits[None].clone(), [replace(sequence, runner_state=None)])
            assert torch.equal(row, alone[0])


class Watched(list[int]):
    """Counts the tokens that are taken out of it."""

    num_read = 0

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        found = super().__getitem__(index)
        self.num_read += len(found) if isinstance(index, slice) else 1
        return found

    def __iter__(self):  # type: ignore[no-untyped-def]
        self.num_read += len(self)
        return super().__iter__()


def test_each_token_is_looked_at_once_however_long_the_output() -> None:
    params = SamplingParams(presence_penalty=0.1, frequency_penalty=0.1, repetition_penalty=1.1)
    history, state, sequence = Watched(range(10)), RunnerState(), None
    for token_id in range(10, 60):
        sequence = drawing(params, history, 10, state, drafts=(1, 2))
        process_logits(torch.zeros(3, 100), sequence.draws())
        history.append(token_id)
    assert history.num_read == len(history) - 1


def test_forks_share_the_ids_of_the_prompt() -> None:
    history = list(range(1000))
    counts = TokenCounts(len(history))
    counts.update(history)
    prompt_ids, _ = counts.seen(history)
    forked = counts.fork()
    forked.update([*history, 5, 2000])
    shared, new = forked.seen(history)
    assert shared is prompt_ids
    assert new.tolist() == [2000]
    assert counts.output()[0].tolist() == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("qwen3_grouped", tmp_path_factory.mktemp("model"))


def num_kept() -> int:
    gc.collect()
    return sum(type(each) is TokenCounts for each in gc.get_objects())


def engine_of(folder: Path, speculation: str) -> LLMEngine:
    return build_engine(
        EngineConfig(
            ModelConfig(str(folder), dtype="float32", device="cpu"),
            CacheConfig(block_size=4, num_blocks=20, enable_prefix_caching=False),
            SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=16, speculation=speculation),
        )
    )


@pytest.mark.parametrize("speculation", ["none", "ngram"])
def test_nothing_is_kept_of_what_has_ended_however_it_ended(folder: Path, speculation: str) -> None:
    engine = engine_of(folder, speculation)
    params = SamplingParams(
        repetition_penalty=0.8, frequency_penalty=-0.1, max_tokens=12, ignore_eos=True
    )
    before = num_kept()
    for name, changes in {"a": {"n": 3}, "b": {}, "c": {"max_tokens": 3}, "d": {}}.items():
        own = params.clone(**changes)
        engine.add_request(Request(name, [1, 2, 1, 3, 2, 1, 3], own, seed=1))
    had_counts = preempted = 0
    for number in range(200):
        if not engine.has_unfinished_requests():
            break
        engine.step()
        groups = engine.scheduler._states.groups
        preempted = max(
            [preempted, *(s.num_preemptions for g in groups.values() for s in g.made_seqs())]
        )
        if number == 4:
            engine.fork_request("a", 1, "f", [Branch(params), Branch(params.clone(seed=5))])
            had_counts = num_kept() - before
        if number == 6:
            engine.abort_request("a", [1])
            engine.abort_request("b")
    assert not engine.has_unfinished_requests()
    assert preempted and had_counts >= 3
    assert num_kept() == before
