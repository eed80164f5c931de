"""A model whose next token costs nothing and can be computed anywhere.

It depends on the token before, the position, the seed and the index of the continuation, so that a
token of another stream, or one that is lost or sent twice, makes all that follows differ.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine_service.config import EngineConfig
    from engine_service.core.outputs import ModelRunnerOutput, SchedulerOutput
    from engine_service.runner.build import BuiltRunner

FIRST_ID = 256
"""Ids below are kept free, for bytes and special tokens."""


def next_token(previous: int, position: int, seed: int, index: int, vocab_size: int) -> int:
    """The token at a position of a sequence."""
    mixed = (previous * 2654435761 + position * 40503 + seed * 69069 + index * 7919) & 0xFFFFFFFF
    return FIRST_ID + (mixed >> 7) % (vocab_size - FIRST_ID - 16)


def expected_tokens(
    prompt: Sequence[int], num_tokens: int, vocab_size: int, seed: int = 0, index: int = 0
) -> list[int]:
    """What the model says after a prompt."""
    tokens = [prompt[-1]]
    for position in range(len(prompt), len(prompt) + num_tokens):
        tokens.append(next_token(tokens[-1], position, seed, index, vocab_size))
    return tokens[1:]


class FakeRunner:
    """A ModelRunner without a model. It knows no log-probabilities and no grammars."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def execute(self, output: "SchedulerOutput") -> "ModelRunnerOutput":
        """See ModelRunner."""
        from engine_service.core.outputs import ModelRunnerOutput

        sampled = []
        for part in output.scheduled:
            drawn = []
            for draw in part.draws():
                last, position = draw.token_ids[-1], draw.num_tokens
                for index in draw.sample_indexes:
                    drawn.append(next_token(last, position, draw.seed, index, self._vocab_size))
            sampled.append(drawn)
        return ModelRunnerOutput(sampled)


def build_fake_runner(
    config: "EngineConfig", folder: Path, show_progress: bool, *_: object
) -> "BuiltRunner":
    """In place of runner.build.build_runner: the model of a folder in all but its weights."""
    import torch

    from engine_service.models.decoder_config import DecoderConfig
    from engine_service.runner.build import BuiltRunner

    decoder_config = DecoderConfig.from_folder(folder)
    return BuiltRunner(
        runner=FakeRunner(decoder_config.vocab_size),
        kernels="fake",
        decoder_config=decoder_config,
        dtype=torch.float32,
        device=torch.device("cpu"),
        num_blocks=config.cache.num_blocks or 4096,
        block_size=config.cache.block_size_on("cpu"),
        max_model_len=config.model.max_model_len or decoder_config.max_position_embeddings,
    )
