"""How fast FolovLLM is on this GPU: against what the device can do, and against its peers.

    python -m benchmarks.gpu [--only decode requests …] [--json FILE]

docs/benchmarks.md says what each line means. Nothing is downloaded: the checkpoint has random
weights. Every section ends in time, and one that fails says why while the others go on.
"""

import argparse
import contextlib
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.cpu.report import output_file
from benchmarks.gpu.line import Ceilings
from benchmarks.gpu.messages import Machine, Task
from benchmarks.gpu.report import one_line, report
from benchmarks.gpu.results import GpuResults
from benchmarks.gpu.run import run_groups
from benchmarks.gpu.sections import SECTIONS, chosen_groups
from benchmarks.harness.random_checkpoint import checkpoint, default_cache

_MODEL = "qwen3-0.6b"
_MEMORY_FOLDER = Path("/dev/shm")
_CHECKPOINT_BYTES = 2 * 2**30


def main(argv: Sequence[str] | None = None) -> None:
    """Prints each line when it is found, and tables at the end; writes JSON where it is asked for.

    Exits with 1 where nothing at all was measured.
    """
    args = _parse_args(argv)
    if not args.smoke and not torch.cuda.is_available():
        sys.exit("error: torch finds no CUDA device; --smoke runs in small on the CPU")
    results = GpuResults(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(sys.argv),
        model="demo" if args.smoke else _MODEL,
    )
    started = time.monotonic()
    with _checkpoint(results.model, args.cache) as folder:
        tasks = [
            Task(folder, args.smoke, sections)
            for sections in chosen_groups(args.only, together=args.smoke)
        ]
        for found in run_groups(tasks, args.seconds):
            if isinstance(found, Machine):
                results.machine = found.words
                continue
            results.lines.append(found)
            said = one_line(found, Ceilings.of(results.lines))
            print(f"{time.monotonic() - started:4.0f} s  {said}", file=sys.stderr, flush=True)
            if args.json:
                results.save(args.json)
    print(f"\n{report(results)}")
    if not any(line.seconds for line in results.lines):
        sys.exit(1)


@contextlib.contextmanager
def _checkpoint(model: str, cache: Path | None) -> Iterator[Path]:
    """The model's folder: in the cache that is named, else in memory while it is needed."""
    if cache is not None or model == "demo":
        yield checkpoint(model, cache or default_cache())
    elif _MEMORY_FOLDER.is_dir() and shutil.disk_usage(_MEMORY_FOLDER).free > _CHECKPOINT_BYTES:
        with tempfile.TemporaryDirectory(dir=_MEMORY_FOLDER) as folder:
            yield checkpoint(model, Path(folder))
    else:
        yield checkpoint(model, default_cache())


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks.gpu", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))
    add("--seconds", type=float, default=480, help="after which nothing begins (%(default)s)")
    add("--smoke", action="store_true", help="in small on the CPU, to see that everything runs")
    add("--cache", type=Path, help="folder of checkpoints, kept (memory, for the run)")
    add("--json", type=output_file, metavar="FILE", help="write every line as it is found")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
