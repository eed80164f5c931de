"""What `folovllm parity` found: numbers, a verdict by fixed rules, a table.

Logit errors are relative L2 norms against transformers in float32. A divergence is a position where
the reference, given the tokens before it, picks another token than our engine did. Its margin is
what the reference's pick has over ours in the reference's own logits, in nats.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

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
    """A model in a dtype on a device, over all prompts."""

    model: str
    dtype: str
    quantization: str
    """Of our weights; none where they are as stored."""
    device: str
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
        if self.quantization != "none":
            return self.error.total <= QUANTIZED_LIMITS[self.quantization]
        if self.own_error is None:
            near_ties = all(divergence.near_tie for divergence in self.divergences)
            return self.error.largest <= FLOAT32_LIMIT and near_ties
        return self.error.total <= BFLOAT16_RATIO * self.own_error.total

    @property
    def verdict(self) -> str:
        """One line: PASS or FAIL, and why."""
        if self.quantization != "none":
            limit = QUANTIZED_LIMITS[self.quantization]
            logits = f"logit error {self.error.total:.1e}, limit {limit:.0e}"
        elif self.own_error is None:
            logits = f"largest logit error {self.error.largest:.1e}, limit {FLOAT32_LIMIT:.0e}"
        else:
            limit = BFLOAT16_RATIO * self.own_error.total
            logits = f"logit error {self.error.total:.2e}, limit {limit:.2e}"
        far = sum(not divergence.near_tie for divergence in self.divergences)
        ties = len(self.divergences) - far
        picks = f"{far} divergences, {ties} more at near ties" if far or ties else "greedy equal"
        return f"{'PASS' if self.passed else 'FAIL'}  {logits}; {picks}"

    def as_dict(self) -> dict[str, object]:
        """Everything, for JSON."""
        own_error = self.own_error
        return asdict(self) | {
            "error": asdict(self.error),
            "own_error": None if own_error is None else asdict(own_error),
            "passed": self.passed,
            "verdict": self.verdict,
        }

    def table(self) -> str:
        """A row for each prompt, and one for all; then the verdict."""
        header = ["prompt", "tokens", "logit error", "largest"]
        if self.own_error is not None:
            header += ["transformers'", "largest"]
        header += ["greedy", "first divergence", "margin", "rank"]
        rows = [header, *(_row(prompt) for prompt in self.prompts), self._all_row()]
        held = self.dtype if self.quantization == "none" else f"{self.quantization}, {self.dtype}"
        title = f"{self.model}, {held} on {self.device}, against transformers in float32"
        return "\n".join((title, "", *_aligned(rows), "", self.verdict))

    def _all_row(self) -> list[str]:
        tokens = sum(prompt.prompt_tokens for prompt in self.prompts)
        steps = sum(prompt.steps for prompt in self.prompts)
        worst = max(self.divergences, key=lambda each: each.margin, default=None)
        return [
            *("all", str(tokens), *_errors(self.error), *_errors(self.own_error)),
            *(f"{steps - len(self.divergences)}/{steps}", "" if worst is None else "largest:"),
            *_margin(worst),
        ]


def _joined(errors: Sequence[LogitError]) -> LogitError:
    total = math.sqrt(math.fsum(error.total**2 for error in errors) / len(errors))
    # max() would pass over what is not a number.
    largest = max(error.largest for error in errors) if total == total else total
    return LogitError(total, largest)


def _row(prompt: PromptParity) -> list[str]:
    first = prompt.divergences[0] if prompt.divergences else None
    return [
        *(prompt.name, str(prompt.prompt_tokens)),
        *_errors(prompt.error),
        *_errors(prompt.own_error),
        f"{prompt.steps - len(prompt.divergences)}/{prompt.steps}",
        "-" if first is None else str(first.step),
        *_margin(first),
    ]


def _errors(error: LogitError | None) -> list[str]:
    return [] if error is None else [f"{error.total:.2e}", f"{error.largest:.2e}"]


def _margin(divergence: Divergence | None) -> list[str]:
    if divergence is None:
        return ["-", "-"]
    return [f"{divergence.margin:.4f}", str(divergence.rank)]


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
