"""What `folovllm parity` found: numbers, a verdict by fixed rules, a table.

Logit errors are relative L2 norms against transformers in float32. A divergence is a position where
the reference, given the tokens before it, picks another token than our engine did. Its margin is
what the reference's pick has over ours in the reference's own logits, in nats.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import click

from folovllm.serving.args import option

FLOAT32_LIMIT = 1e-4
"""Largest logit error of any position in float32."""
BFLOAT16_RATIO = 1.25
"""Largest logit error in bfloat16, as a multiple of transformers' own."""
QUANTIZED_LIMITS = {"int8": 0.1, "int4": 0.3}
"""Largest logit error of all positions together, of quantized weights."""
NEAR_TIE = 0.125
"""Largest margin, in nats, of a divergence that rounding explains."""
NEAR_TIE_RANK = 2
"""Largest rank of our pick in such a divergence; the reference's own pick has rank 1."""


@dataclass(frozen=True, slots=True)
class ParityOptions:
    """What is compared: the options of the command."""

    model: str | None = option(
        None, "A model's folder or hub id. Default: the embedded one.", metavar="PATH_OR_ID"
    )
    dtype: str = option(
        "float32",
        "Of our engine; the reference is float32. Default: float32; bfloat16 if quantized.",
        type=click.Choice(["float32", "bfloat16"]),
        default=None,
    )
    quantization: str = option(
        "none", "Of our engine's weights.", type=click.Choice(["none", "int8", "int4"])
    )
    device: str = option("auto", "cpu, cuda or cuda:N, for both.", metavar="DEVICE")
    prompts: int = option(
        8, "Up to three texts, then random ids.", type=click.IntRange(1), metavar="N"
    )
    steps: int = option(
        64, "Tokens of each greedy continuation.", type=click.IntRange(1), metavar="N"
    )


@dataclass(frozen=True, slots=True)
class LogitError:
    """How far logits are from the reference's."""

    total: float
    """Over all positions together."""
    max_error: float
    """Of the position where it is largest; `largest` in JSON."""

    @classmethod
    def joined(cls, errors: Sequence[Self]) -> Self:
        """The root mean square of the totals, and the largest of all; NaN if one is NaN."""
        total = math.sqrt(math.fsum(error.total**2 for error in errors) / len(errors))
        # max() would skip NaN.
        return cls(total, total if math.isnan(total) else max(error.max_error for error in errors))


@dataclass(frozen=True, slots=True)
class Divergence:
    """A position where the reference picks another token."""

    step: int
    """Tokens that were generated before it."""
    margin: float
    rank: int
    """Of our pick among the reference's logits, from 1."""

    @property
    def near_tie(self) -> bool:
        """Whether rounding explains it."""
        return self.margin <= NEAR_TIE and self.rank <= NEAR_TIE_RANK


@dataclass(frozen=True, slots=True)
class PromptParity:
    """One prompt and its greedy continuation, or all of them together."""

    name: str
    prompt_tokens: int
    steps: int
    error: LogitError
    own_error: LogitError | None
    """transformers' own in bfloat16; None if float32 is compared."""
    divergences: tuple[Divergence, ...]

    @property
    def num_far(self) -> int:
        """Divergences that rounding does not explain."""
        return sum(not divergence.near_tie for divergence in self.divergences)

    def row(self, position: str, divergence: Divergence | None) -> list[str]:
        """The cells of the table, with one of the divergences and its position."""
        errors = [error for error in (self.error, self.own_error) if error is not None]
        return [
            self.name,
            str(self.prompt_tokens),
            *(f"{value:.2e}" for error in errors for value in (error.total, error.max_error)),
            f"{self.steps - len(self.divergences)}/{self.steps}",
            position,
            *([f"{divergence.margin:.4f}", str(divergence.rank)] if divergence else ["-", "-"]),
        ]


@dataclass(frozen=True, slots=True)
class ParityReport:
    """What was compared, as the options were resolved, and all prompts."""

    options: ParityOptions
    prompts: tuple[PromptParity, ...]

    @property
    def total(self) -> PromptParity:
        """All prompts together."""
        own_errors = [prompt.own_error for prompt in self.prompts if prompt.own_error is not None]
        return PromptParity(
            name="all",
            prompt_tokens=sum(prompt.prompt_tokens for prompt in self.prompts),
            steps=sum(prompt.steps for prompt in self.prompts),
            error=LogitError.joined([prompt.error for prompt in self.prompts]),
            own_error=LogitError.joined(own_errors) if own_errors else None,
            divergences=tuple(
                divergence for prompt in self.prompts for divergence in prompt.divergences
            ),
        )

    @property
    def passed(self) -> bool:
        """The rule: in float32 the logits and the greedy picks, else the logits.

        NaN never passes.
        """
        _, error, limit = self._judged()
        exact = self.options.quantization == "none" and self.total.own_error is None
        return error <= limit and not (exact and self.total.num_far)

    @property
    def verdict(self) -> str:
        """One line: PASS or FAIL, and why."""
        name, error, limit = self._judged()
        far, count = self.total.num_far, len(self.total.divergences)
        picks = f"{far} divergences, {count - far} more at near ties" if count else "greedy equal"
        passed = "PASS" if self.passed else "FAIL"
        return f"{passed}  {name} {error:.2e}, limit {limit:.2e}; {picks}"

    def as_dict(self) -> dict[str, object]:
        """Everything, for JSON."""
        total = asdict(self.total, dict_factory=_json_object)
        return asdict(self.options) | {
            "prompts": [asdict(prompt, dict_factory=_json_object) for prompt in self.prompts],
            "error": total["error"],
            "own_error": total["own_error"],
            "passed": self.passed,
            "verdict": self.verdict,
        }

    def table(self) -> str:
        """A row for each prompt, and one for all; then the verdict."""
        options, total = self.options, self.total
        header = ["prompt", "tokens", "logit error", "largest"]
        if total.own_error is not None:
            header += ["transformers'", "largest"]
        header += ["greedy", "first divergence", "margin", "rank"]
        rows = [header]
        for prompt in self.prompts:
            first = next(iter(prompt.divergences), None)
            rows.append(prompt.row("-" if first is None else str(first.step), first))
        worst = max(total.divergences, key=lambda divergence: divergence.margin, default=None)
        rows.append(total.row("" if worst is None else "largest:", worst))
        weights = "" if options.quantization == "none" else f"{options.quantization}, "
        title = (
            f"{options.model}, {weights}{options.dtype} on {options.device}, "
            "against transformers in float32"
        )
        return "\n".join((title, "", *_aligned(rows), "", self.verdict))

    def _judged(self) -> tuple[str, float, float]:
        """Which error decides, by its name, and its limit."""
        error, own_error = self.total.error, self.total.own_error
        if self.options.quantization != "none":
            return "logit error", error.total, QUANTIZED_LIMITS[self.options.quantization]
        if own_error is None:
            return "largest logit error", error.max_error, FLOAT32_LIMIT
        return "logit error", error.total, BFLOAT16_RATIO * own_error.total


def _json_object(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {"largest" if name == "max_error" else name: value for name, value in fields}


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    formats = [f"<{widths[0]}", *(f">{width}" for width in widths[1:])]
    return ["  ".join(map(format, row, formats)) for row in rows]
