"""A step computes the same for a sequence however it is scheduled."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine_service.core.outputs import ScheduledSequence, SchedulerOutput
from engine_service.models.torch_decoder import TorchDecoder
from engine_service.runner.build import BuiltRunner, build_runner
from engine_service.runner.model_runner import TorchModelRunner
from engine_service.runner.sampling.not_finite import not_finite
from folovllm.errors import ConfigError
from folovllm.sampling_params import SamplingParams
from support.builders.tiny_models import EOS_TOKEN_ID, VOCAB_SIZE, make_checkpoint

GREEDY = SamplingParams(temperature=0.0)
RANDOM = SamplingParams(temperature=1.0, top_p=0.9)
BLOCK_SIZE = 4
POISON = VOCAB_SIZE - 1
NUM_BLOCKS = 256


@dataclass
class Running:
    """One sequence of a hand-driven engine: its tokens, its blocks, how far it is computed."""

    seq_id: int
    token_ids: list[int]
    params: SamplingParams = GREEDY
    index: int = 0
    chunk: int = 1000
    num_computed: int = 0
    block_table: list[int] = field(default_factory=list)

    def schedule(self, free_blocks: list[int]) -> ScheduledSequence:
        """The next chunk of the tokens that are not computed yet."""
        end = min(len(self.token_ids), self.num_computed + self.chunk)
        while len(self.block_table) * BLOCK_SIZE < end:
            self.block_table.append(free_blocks.pop())
        return ScheduledSequence(
            seq_id=self.seq_id,
            token_ids=tuple(self.token_ids[self.num_computed : end]),
            num_computed_tokens=self.num_computed,
            block_table=self.block_table,
            sampling_params=self.params,
            seed=1000 + self.seq_id,
            sample_indexes=(self.index,) if end == len(self.token_ids) else (),
        )


def step(built: BuiltRunner, running: Sequence[Running], free_blocks: list[int]) -> None:
    """Schedules every sequence once, and appends what was drawn."""
    scheduled = tuple(sequence.schedule(free_blocks) for sequence in running)
    output = built.runner.execute(SchedulerOutput(scheduled))
    for sequence, part, drawn in zip(running, scheduled, output.sampled_token_ids, strict=True):
        assert len(drawn) == len(part.sample_indexes)
        sequence.num_computed = part.num_tokens
        sequence.token_ids += drawn


def generate(built: BuiltRunner, sequence: Running, steps: int = 12) -> list[int]:
    """What a sequence draws when it runs alone."""
    length = len(sequence.token_ids)
    free_blocks = list(range(NUM_BLOCKS))
    while len(sequence.token_ids) < length + steps:
        step(built, [sequence], free_blocks)
    return sequence.token_ids[length:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("qwen3_grouped", tmp_path_factory.mktemp("model"))


def engine_config(**cache: int | None) -> EngineConfig:
    values: dict[str, int | None] = {"block_size": BLOCK_SIZE, "num_blocks": NUM_BLOCKS, **cache}
    return EngineConfig(
        model=ModelConfig(dtype="float32", device="cpu"),
        cache=CacheConfig(**values),  # type: ignore[arg-type]
        scheduler=SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=64),
    )


@pytest.fixture
def built(folder: Path) -> BuiltRunner:
    return build_runner(engine_config(), folder, show_progress=False)


def prompt(seq_id: int, length: int) -> list[int]:
    return [(7 * seq_id + 11 * i) % VOCAB_SIZE for i in range(length)]


@pytest.mark.parametrize("params", [GREEDY, RANDOM], ids=["greedy", "random"])
def test_a_mixed_batch_draws_what_each_sequence_draws_alone(
    built: BuiltRunner, params: SamplingParams
) -> None:
    shapes = [(5, 1000), (1, 1000), (30, 7), (17, 1), (40, 16), (3, 2)]
    alone = [
        generate(built, Running(i, prompt(i, length), params))
        for i, (length, _) in enumerate(shapes)
    ]
    free_blocks = list(range(NUM_BLOCKS))
    running: list[Running] = []
    waiting = [
        Running(i, prompt(i, length), params, chunk=chunk)
        for i, (length, chunk) in enumerate(shapes)
    ]
    while waiting or any(len(r.token_ids) < shapes[r.seq_id][0] + 12 for r in running):
        if waiting:
            running.insert(0, waiting.pop())
        step(built, running, free_blocks)
    for sequence in running:
        length = shapes[sequence.seq_id][0]
        assert sequence.token_ids[length : length + 12] == alone[sequence.seq_id]


def test_recomputing_into_other_blocks_changes_nothing(built: BuiltRunner) -> None:
    expected = generate(built, Running(3, prompt(3, 10), RANDOM), steps=20)
    sequence = Running(3, prompt(3, 10), RANDOM)
    first = generate(built, sequence, steps=9)
    sequence.num_computed, sequence.block_table, sequence.chunk = 0, [], 6
    free_blocks = list(range(100, 140))
    while len(sequence.token_ids) < 30:
        step(built, [sequence], free_blocks)
    assert sequence.token_ids[10:] == expected
    assert expected[:9] == first


def test_a_prefix_computed_for_another_sequence_can_be_shared(built: BuiltRunner) -> None:
    tokens = prompt(5, 14)
    expected = generate(built, Running(5, list(tokens)))
    owner = Running(5, tokens[:12])
    step(built, [owner], list(range(NUM_BLOCKS)))
    sharer = Running(5, list(tokens), num_computed=12, block_table=owner.block_table[:3])
    free_blocks = list(range(8))
    while len(sharer.token_ids) < len(tokens) + 12:
        step(built, [sharer], free_blocks)
    assert sharer.token_ids[14:] == expected


def test_a_fork_draws_one_token_for_each_index_and_copies_the_last_block(
    built: BuiltRunner,
) -> None:
    alone = [generate(built, Running(2, prompt(2, 6), RANDOM, index=index)) for index in range(3)]
    parent = Running(2, prompt(2, 6), RANDOM)
    free_blocks = list(range(NUM_BLOCKS))
    base = parent.schedule(free_blocks)
    fork = ScheduledSequence(
        base.seq_id,
        base.token_ids,
        base.num_computed_tokens,
        base.block_table,
        base.sampling_params,
        base.seed,
        sample_indexes=(0, 1, 2),
    )
    (drawn,) = built.runner.execute(SchedulerOutput((fork,))).sampled_token_ids
    assert list(drawn) == [tokens[0] for tokens in alone]
    full, last = parent.block_table
    children = [
        Running(2, [*prompt(2, 6), drawn[index]], RANDOM, index, 1000, 6, [full, block])
        for index, block in enumerate((last, free_blocks.pop(), free_blocks.pop()))
    ]
    copies = tuple((last, child.block_table[1]) for child in children[1:])
    built.runner.execute(SchedulerOutput((), copies))
    for _ in range(11):
        step(built, children, free_blocks)
    assert [child.token_ids[6:] for child in children] == alone


def test_forbidden_ids_reach_the_sampler(built: BuiltRunner) -> None:
    sequence = Running(1, prompt(1, 5)).schedule(list(range(4)))
    drawn = built.runner.execute(SchedulerOutput((sequence,))).sampled_token_ids[0][0]
    forbidding = replace(sequence, forbidden_token_ids=(drawn,))
    again = built.runner.execute(SchedulerOutput((forbidding,))).sampled_token_ids[0][0]
    assert again != drawn


def test_a_part_of_a_prompt_that_is_nan_fails_before_it_draws(tmp_path: Path) -> None:
    built = build_runner(engine_config(), make_checkpoint("qwen3_grouped", tmp_path), False)
    assert isinstance(built.runner, TorchModelRunner)
    model = built.runner.model
    assert isinstance(model, TorchDecoder)
    dict(model.weights())["model.embed_tokens.weight"][POISON] = float("nan")
    free_blocks = list(range(NUM_BLOCKS))
    running = [
        Running(7, [POISON, *prompt(7, 8)], chunk=5),
        Running(8, prompt(8, 8), chunk=5),
        Running(9, [2, POISON]),
        Running(10, [2, 3, 4]),
    ]
    parts = tuple(sequence.schedule(free_blocks) for sequence in running)
    output = built.runner.execute(SchedulerOutput(parts))
    assert [len(drawn) for drawn in output.sampled_token_ids] == [0, 0, 0, 1]
    assert {i: str(error) for i, error in output.failures.items()} == {
        0: str(not_finite(5)),
        2: str(not_finite(2)),
    }


def test_an_error_of_one_draw_is_its_own(built: BuiltRunner) -> None:
    free_blocks = list(range(NUM_BLOCKS))
    params = (GREEDY, GREEDY.clone(logit_bias={VOCAB_SIZE: 1.0}), RANDOM)
    parts = tuple(
        Running(i, prompt(i, 5), each).schedule(free_blocks) for i, each in enumerate(params)
    )
    output = built.runner.execute(SchedulerOutput(parts))
    assert [len(drawn) for drawn in output.sampled_token_ids] == [1, 0, 1]
    assert isinstance(output.failures[1], IndexError) and len(output.failures) == 1
    alone = [built.runner.execute(SchedulerOutput((part,))) for part in parts]
    assert output.sampled_token_ids == [each.sampled_token_ids[0] for each in alone]


def test_build_reports_what_it_found(folder: Path) -> None:
    built = build_runner(engine_config(num_blocks=None), folder, show_progress=True)
    assert built.device == torch.device("cpu") and built.dtype == torch.float32
    assert built.max_model_len == 512 and built.block_size == BLOCK_SIZE
    assert built.num_blocks == 4 * 512 // BLOCK_SIZE
    assert built.decoder_config.eos_token_ids == (EOS_TOKEN_ID,)


def test_build_refuses_a_context_over_the_models(folder: Path) -> None:
    config = EngineConfig(model=ModelConfig(max_model_len=513, device="cpu"))
    with pytest.raises(ConfigError, match="max_model_len 513 is over the model's own limit of 512"):
        build_runner(config, folder, show_progress=False)
    config = EngineConfig(
        model=ModelConfig(max_model_len=100, device="cpu"), cache=CacheConfig(num_blocks=8)
    )
    assert build_runner(config, folder, show_progress=False).max_model_len == 100
