"""What `folovllm parity` found: numbers, a verdict by fixed rules, a table.

Logit errors are relative L2 norms against transformers in float32. A divergence is a position where
the reference, given the tokens before it, picks another token than our engine did. Its margin is
what the reference's pick has over ours in the reference's own logits, in nats.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

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
    largest: float
    """Of the position where it is largest."""


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
    """One prompt and its greedy continuation."""

    name: str
    prompt_tokens: int
    steps: int
    error: LogitError
    own_error: LogitError | None
    """transformers' own in bfloat16; None where float32 is compared."""
    divergences: tuple[Divergence, ...]


@dataclass(frozen=True, slots=True)
class ParityReport:
    """What was compared, as the options were resolved, and all prompts."""

    options: ParityOptions
    prompts: tuple[PromptParity, ...]

    @property
    def error(self) -> LogitError:
        """Ours: the root mean square of the prompts' totals, and the largest of all."""
        return _joined([prompt.error for prompt in self.prompts])

    @property
    def own_error(self) -> LogitError | None:
        """transformers' own, likewise."""
        errors = [prompt.own_error for prompt in self.prompts if prompt.own_error is not None]
        return _joined(errors) if errors else None

    @property
    def divergences(self) -> list[Divergence]:
        """Those of all prompts."""
        return [divergence for prompt in self.prompts for divergence in prompt.divergences]

    @property
    def passed(self) -> bool:
        """The rule: in float32 the logits and the greedy picks, else the logits.

        An error that is not a number never passes.
        """
        _, error, limit = self._judged()
        exact = self.options.quantization == "none" and self.own_error is None
        return error <= limit and not (exact and self._num_far())

    @property
    def verdict(self) -> str:
        """One line: PASS or FAIL, and why."""
        name, error, limit = self._judged()
        far, all_of_them = self._num_far(), len(self.divergences)
        picks = f"{far} divergences, {all_of_them - far} more at near ties"
        return (
            f"{'PASS' if self.passed else 'FAIL'}  {name} {error:.2e}, limit {limit:.2e}; "
            f"{picks if all_of_them else 'greedy equal'}"
        )

    def as_dict(self) -> dict[str, object]:
        """Everything, for JSON."""
        own_error = self.own_error
        return asdict(self.options) | {
            "prompts": [asdict(prompt) for prompt in self.prompts],
            "error": asdict(self.error),
            "own_error": None if own_error is None else asdict(own_error),
            "passed": self.passed,
            "verdict": self.verdict,
        }

    def table(self) -> str:
        """A row for each prompt, and one for all; then the verdict."""
        options, own = self.options, self.own_error
        header = ["prompt", "tokens", "logit error", "largest"]
        if own is not None:
            header += ["transformers'", "largest"]
        header += ["greedy", "first divergence", "margin", "rank"]
        rows = [header]
        for each in self.prompts:
            first = each.divergences[0] if each.divergences else None
            position = "-" if first is None else str(first.step)
            rows.append(_row(each.name, [each], each.error, each.own_error, position, first))
        worst = max(self.divergences, key=lambda each: each.margin, default=None)
        position = "" if worst is None else "largest:"
        rows.append(_row("all", self.prompts, self.error, own, position, worst))
        held = "" if options.quantization == "none" else f"{options.quantization}, "
        title = (
            f"{options.model}, {held}{options.dtype} on {options.device}, "
            "against transformers in float32"
        )
        return "\n".join((title, "", *_aligned(rows), "", self.verdict))

    def _judged(self) -> tuple[str, float, float]:
        """Which error decides, by its name, and its limit."""
        if self.options.quantization != "none":
            return "logit error", self.error.total, QUANTIZED_LIMITS[self.options.quantization]
        if self.own_error is None:
            return "largest logit error", self.error.largest, FLOAT32_LIMIT
        return "logit error", self.error.total, BFLOAT16_RATIO * self.own_error.total

    def _num_far(self) -> int:
        return sum(not divergence.near_tie for divergence in self.divergences)


def _joined(errors: Sequence[LogitError]) -> LogitError:
    total = math.sqrt(math.fsum(error.total**2 for error in errors) / len(errors))
    # max() would pass over what is not a number.
    largest = max(error.largest for error in errors) if total == total else total
    return LogitError(total, largest)


def _row(
    name: str,
    prompts: Sequence[PromptParity],
    error: LogitError,
    own_error: LogitError | None,
    position: str,
    divergence: Divergence | None,
) -> list[str]:
    steps = sum(prompt.steps for prompt in prompts)
    equal = steps - sum(len(prompt.divergences) for prompt in prompts)
    errors = [value for each in (error, own_error) if each for value in (each.total, each.largest)]
    return [
        *(name, str(sum(prompt.prompt_tokens for prompt in prompts))),
        *(f"{value:.2e}" for value in errors),
        *(f"{equal}/{steps}", position),
        *([f"{divergence.margin:.4f}", str(divergence.rank)] if divergence else ["-", "-"]),
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    ]
