"""The decode and prefill rates as a PNG: a group of bars for each case, the bound above them.

Needs matplotlib, which `folovllm[bench]` installs.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.measurement import Measurement, by_case

_WIDTH = 0.8  # of a group of bars, where the distance from one group to the next is 1


def save_plot(measurements: Sequence[Measurement], title: str, path: Path) -> None:
    """Draws every case in tok/s; each panel has a scale of its own."""
    from matplotlib.figure import Figure

    cases = by_case([each for each in measurements if each.unit == "tok/s"])
    engines = list(dict.fromkeys(each.engine for each in measurements if each.unit == "tok/s"))
    bars = [len(group) for group in cases.values()]
    figure = Figure(figsize=(0.45 * sum(bars) + 1.2 * len(cases), 4.5), layout="constrained")
    panels = figure.subplots(1, len(cases), squeeze=False, width_ratios=bars)[0]
    for panel, (case, group) in zip(panels, cases.items(), strict=True):
        for place, each in enumerate(group):
            lower, upper = each.median - min(each.values), max(each.values) - each.median
            panel.bar(
                *(place, each.median, _WIDTH),
                yerr=[[lower], [upper]],
                color=f"C{engines.index(each.engine)}",
                capsize=3,
            )
        if group[0].bound is not None:
            panel.axhline(group[0].bound, color="black", linestyle="--", linewidth=1)
        panel.set_title(case, fontsize=9)
        names = [each.engine for each in group]
        panel.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
        panel.set_ylim(bottom=0)
    panels[0].set_ylabel("tok/s; dashed: the bound in bf16")
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=150)
