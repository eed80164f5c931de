"""What the doctor finds, and how it is shown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from folovllm_client.cli.console import harmless

if TYPE_CHECKING:
    from rich.console import Console

State = Literal["ok", "info", "warning", "error"]
"""`warning`: it works, but slower or larger than it need be. `error`: a part does not work."""

CPU_KERNELS = "CPU kernels"
GPU_KERNELS = "GPU kernels"
"""Names of findings that say what computes."""

_SIGNS: dict[State, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "info": ("·", "dim"),
    "warning": ("!", "yellow"),
    "error": ("✗", "red"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `command` is what to type about it."""

    name: str
    state: State
    text: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found, in sections by their titles."""

    sections: Mapping[str, Sequence[Finding]]

    @property
    def findings(self) -> list[Finding]:
        """All of them, in the order in which they are shown."""
        return [each for found in self.sections.values() for each in found]

    def of_state(self, state: State) -> list[Finding]:
        """Those of a state."""
        return [each for each in self.findings if each.state == state]

    def what_computes(self) -> str:
        """Whose code computes models here; empty if the engine is not complete."""
        states = {each.name: each.state for each in self.findings}
        if state := states.get(GPU_KERNELS):
            return "the GPU kernels" if state == "ok" else "torch, on the GPU"
        if state := states.get(CPU_KERNELS):
            return "the CPU kernels" if state == "ok" else "torch, on the CPU"
        return ""

    def as_dict(self) -> dict[str, list[dict[str, str]]]:
        """The sections as plain values."""
        return {title.lower(): [*map(asdict, found)] for title, found in self.sections.items()}

    def show(self, console: "Console") -> None:
        """Prints it: with signs and colours at a terminal, in a pipe with a word for each state."""
        width = max(len(each.name) for each in self.findings)
        for title, found in self.sections.items():
            console.print(f"\n{title}", style="bold")
            for each in found:
                for text, style in _line(each, width, signs=console.is_terminal):
                    console.print(harmless(text), style=style, end="")
                console.print()


def _line(finding: Finding, width: int, *, signs: bool) -> Iterator[tuple[str, str]]:
    sign, style = _SIGNS[finding.state]
    yield f"  {sign if signs else f'{finding.state:<7}'} ", style
    yield f"{finding.name:<{width}}  ", "dim"
    yield finding.text, ""
    if finding.command:
        indent = " " * (4 if signs else 10)
        yield f"\n{indent}{'':<{width}}  {finding.command}", "cyan"
