"""`folovllm perplexity`: how well a model predicts a text, so what a format costs in quality."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from folovllm.errors import ConfigError
from folovllm.serving.args import option
from folovllm_client.cli.local_model import LocalModelOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexityOptions(LocalModelOptions):
    """What is measured: the options of the command."""

    file: Path
    """The text to predict, in UTF-8."""
    window: int = option(
        512, "Tokens that are predicted together.", type=click.IntRange(2), metavar="N"
    )


@dataclass(frozen=True, slots=True)
class Perplexity:
    """How well a text was predicted."""

    model: str
    dtype: str
    quantization: str
    num_tokens: int
    """Predicted, which the first of each window is not."""
    nats_per_token: float
    """Mean negative log-probability; the perplexity is its exponential."""

    @property
    def perplexity(self) -> float:
        """Between how many tokens, equally likely, the model would have been as unsure."""
        return math.exp(self.nats_per_token)

    def as_dict(self) -> dict[str, object]:
        """Every figure."""
        return asdict(self) | {"perplexity": self.perplexity}

    def line(self) -> str:
        """The figures for people."""
        weights = self.dtype if self.quantization == "none" else self.quantization
        return (
            f"perplexity {self.perplexity:.4f}  ({self.nats_per_token:.5f} nats a token, "
            f"{self.num_tokens:,} tokens, {self.model} in {weights})"
        )


def measure_perplexity(options: PerplexityOptions) -> Perplexity:
    """Predicts every token of the text but the first of each window, after those before it there.

    Windows follow each other without overlap, as in the usual strided evaluation with a stride of
    the window's length (https://huggingface.co/docs/transformers/perplexity). Raises ConfigError
    for a text of one token, InvalidRequestError for a window beyond the model's context.
    """
    from folovllm_client.llm.llm import LLM  # only here, since it is slow to import

    llm = LLM(
        options.model,
        dtype=options.dtype,
        device=options.device,
        quantization=options.quantization,
    )
    ids = llm.get_tokenizer().encode(_read(options.file))
    windows = [ids[start : start + options.window] for start in range(0, len(ids), options.window)]
    scores = [
        llm.score(window[:1], [window[1:]]).continuations[0]
        for window in windows
        if len(window) > 1
    ]
    num_tokens = sum(len(score.token_ids) for score in scores)
    if not num_tokens:
        raise ConfigError(f"{options.file} holds no two tokens; give a longer text")
    total = -math.fsum(logprob for score in scores for logprob in score.logprobs)
    info, nats = llm.model_info, total / num_tokens
    return Perplexity(info.model_id, info.dtype, options.quantization, num_tokens, nats)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--file {file} cannot be read as UTF-8: {error}") from None
