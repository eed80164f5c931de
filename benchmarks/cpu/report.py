"""The results of one run of `benchmarks.cpu`, or of several together, as tables and a plot.

python -m benchmarks.cpu.report bf16.json int8.json [--markdown] [--plot FILE]
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.cpu.measurement import Measurement
from benchmarks.cpu.plot import save_plot
from benchmarks.cpu.results import Results, merged
from benchmarks.cpu.tables import Table, details, matrix, targets
from benchmarks.harness.columns import Row, markdown_table, text_table
from folovllm.errors import FolovError


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the report; draws the plot where it is asked for."""
    args = _parse_args(argv)
    try:
        runs = [Results.load(path) for path in args.files]
    except FolovError as error:
        sys.exit(f"error: {error}")
    print(markdown_report(runs) if args.markdown else text_report(runs))
    if args.plot:
        save_plot(merged(runs), runs[-1].title, args.plot)


def text_report(runs: Sequence[Results]) -> str:
    """For a terminal: every line of every case, and the targets."""
    return _report(runs, (details, targets), text_table)


def markdown_report(runs: Sequence[Results]) -> str:
    """For a document: engines by cases, and the targets."""
    return _report(runs, (matrix, targets), markdown_table)


def _report(
    runs: Sequence[Results],
    kinds: Sequence[Callable[[Sequence[Measurement]], Table]],
    write: Callable[[Row, Sequence[Row], int], str],
) -> str:
    """What was measured with, and those tables that have rows."""
    measurements, head = merged(runs), "\n".join(run.head for run in runs)
    tables = [kind(measurements) for kind in kinds]
    written = [write(table.head, table.rows, table.names) for table in tables if table.rows]
    return "\n\n".join([head, *written])


def plot_file(text: str) -> Path:
    """A file for a plot, as an argument of a command line."""
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("matplotlib is missing: pip install 'folovllm[bench]'")
    return output_file(text)


def output_file(text: str) -> Path:
    """A file that can be written when all is measured, as an argument of a command line."""
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is not a folder")
    return path


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "benchmarks.cpu.report", description=__doc__.partition("\n")[0]
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="JSON of benchmarks.cpu, latest last")
    add("--markdown", action="store_true", help="print what docs/benchmarks.md holds")
    add("--plot", type=plot_file, metavar="FILE", help="write a PNG; needs folovllm[bench]")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
