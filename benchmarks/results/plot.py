"""The rates as a PNG: a panel for each case, a bar for each engine, its bound as a line above.

Needs matplotlib, which `folovllm[bench]` installs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.results.measurement import Measurement, by_case

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 2
_WIDTH = 0.8  # of a bar, where the distance from one to the next is 1


def save_plot(measurements: Sequence[Measurement], title: str, path: Path) -> None:
    """Draws every case in tok/s; each panel has a scale of its own."""
    from matplotlib.figure import Figure

    cases = by_case([each for each in measurements if each.unit == "tok/s"])
    peers = list(dict.fromkeys(each.name.engine for group in cases.values() for each in group))
    colors = {peer: f"C{index}" for index, peer in enumerate(peers)}
    rows = -(-len(cases) // _COLUMNS)
    figure = Figure(figsize=(11, 3.4 * rows), layout="constrained")
    panels = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for panel, (case, group) in zip(panels, cases.items(), strict=False):
        panel.set_title(case, fontsize=9)
        _draw(panel, group, colors)
    for panel in panels[len(cases) :]:
        panel.set_axis_off()
    figure.suptitle(f"{title}; tok/s, a line above a bar is its bound", fontsize=9)
    figure.savefig(path, dpi=150)


def _draw(panel: "Axes", group: Sequence[Measurement], colors: dict[str, str]) -> None:
    """One case: the engines in order, from the slowest to the quickest turn of each."""
    for index, each in enumerate(group):
        lower, upper = each.median - min(each.values), max(each.values) - each.median
        panel.bar(
            *(index, each.median, _WIDTH),
            yerr=[[lower], [upper]],
            color=colors[each.name.engine],
            capsize=3,
        )
        if each.bound is not None:
            panel.hlines(each.bound, index - _WIDTH / 2, index + _WIDTH / 2, color="black")
    names = [each.engine for each in group]
    panel.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=7)
    panel.set_ylim(bottom=0)
