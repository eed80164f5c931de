"""Options that several benchmarks have."""

import argparse
from pathlib import Path

import torch

from benchmarks.harness.random_checkpoint import MODELS, default_cache


def make_parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """For `python -m benchmarks NAME`, described by a module's docstring."""
    return argparse.ArgumentParser(
        f"python -m benchmarks {name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json: the results file."""
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write every repeat")


def add_cache(parser: argparse.ArgumentParser) -> None:
    """--cache: where checkpoints are kept."""
    add = parser.add_argument
    add("--cache", type=Path, default=default_cache(), help="folder of checkpoints (%(default)s)")


def add_model(parser: argparse.ArgumentParser, default: str | None = "qwen3-0.6b") -> None:
    """--model, --threads and --cache: what engines run."""
    add = parser.add_argument
    add("--model", choices=MODELS, default=default, help="shape of the weights (qwen3-0.6b)")
    add("--threads", type=int, default=torch.get_num_threads(), help="(%(default)s)")
    add_cache(parser)


def output_file(text: str) -> Path:
    """A file in a folder that exists, so that what was measured can be written to it."""
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is not a folder")
    return path
