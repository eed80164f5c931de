"""Rebuilds the embedded model: corpus, tokenizer, training, evaluation, card. One command.

Run as `python -m tools.demo_model.build [--folder FOLDER] [--steps N | --minutes M]`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tools.demo_model.card import write_card
from tools.demo_model.evaluate import evaluate, table
from tools.demo_model.train import DEFAULT_STEPS, Options, train
from tools.demo_model.train_tokenizer import train_tokenizer

EMBEDDED = Path(__file__).resolve().parents[2] / "folovllm" / "demo_model"


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=EMBEDDED)
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--count", type=int, default=200, help="questions in each test")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = Path(scratch)
        train_tokenizer(tokenizer)
        started = time.monotonic()
        train(
            Options(given.folder, tokenizer, given.steps, given.minutes, given.seed, given.workers)
        )
        minutes = (time.monotonic() - started) / 60
    scores = evaluate(given.folder, given.count)
    write_card(given.folder, scores, f"Training took {minutes:.0f} minutes.")
    print(table(scores))


if __name__ == "__main__":
    main()
