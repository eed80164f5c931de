"""Tables and a plot of files that benchmarks wrote with --json.

    python -m benchmarks report bf16.json int8.json [--markdown] [--plot FILE]

Files of several runs make one table; of what was measured twice, the last file counts.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.options import make_parser, output_file
from benchmarks.results.measurement import by_case
from benchmarks.results.plot import save_plot
from benchmarks.results.results import Results, merged
from benchmarks.results.tables import details, matrix, one_line, targets
from folovllm.errors import FolovError


def main(argv: Sequence[str]) -> None:
    """Prints the report; draws the plot if one is asked for."""
    parser = make_parser("report", __doc__)
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="the latest last")
    add("--markdown", action="store_true", help="for a document: engines by cases")
    add("--plot", type=plot_file, metavar="FILE", help="write a PNG; needs folovllm[bench]")
    args = parser.parse_args(argv)
    try:
        runs = [Results.load(path) for path in args.files]
    except FolovError as error:
        sys.exit(f"error: {error}")
    print(report(runs, args.markdown))
    if args.plot:
        save_plot(merged(runs), runs[-1].title, args.plot)


def report(runs: Sequence[Results], markdown: bool = False) -> str:
    """What was measured with, the tables, and the notes; one benchmark after the other."""
    return "\n\n\n".join(
        _report_one(name, [run for run in runs if run.benchmark == name], markdown)
        for name in dict.fromkeys(run.benchmark for run in runs)
    )


def _report_one(benchmark: str, runs: Sequence[Results], markdown: bool) -> str:
    measurements = merged(runs)
    tables = [details(measurements), targets(benchmark, measurements)]
    if markdown:
        compared = {
            case
            for case, group in by_case(measurements).items()
            if len(group) > 1 and group[0].unit == "tok/s"
        }
        rest = [each for each in measurements if each.case not in compared]
        compared_ones = [each for each in measurements if each.case in compared]
        tables[:1] = [matrix(compared_ones), details(rest)]
    written = [table.markdown() if markdown else table.text() for table in tables if table.rows]
    notes = [
        f"{each.case}, {each.engine}: {each.note}" if each.values else one_line(each)
        for each in measurements
        if each.note
    ]
    return "\n\n".join([*(run.head for run in runs), *written, *filter(None, ["\n".join(notes)])])


def plot_file(text: str) -> Path:
    """A file for a plot, as an argument of a command line."""
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("matplotlib is missing: pip install 'folovllm[bench]'")
    return output_file(text)
