"""Trains the demo model on the seeded corpus and writes its checkpoint.

Every worker process works on samples of its own with one thread, and gradients are averaged.
Run as `python -m tools.demo_model.train FOLDER --steps N` (or `--minutes M`, which fits the
schedule to the clock and is therefore not reproducible to the bit).
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import distributed
from torch.multiprocessing.spawn import spawn
from torch.optim import Optimizer
from transformers import Qwen3ForCausalLM

from tools.demo_model.checkpoint import new_model, write_checkpoint
from tools.demo_model.corpus import samples
from tools.demo_model.network import Network
from tools.demo_model.packing import Batch, batches

SAMPLES_PER_STEP = 48
DEFAULT_STEPS = 5000
PEAK_RATE = 3e-3
WARMUP, DECAY_FROM = 0.02, 0.2
REPORT_EVERY = 50
SNAPSHOTS = 20
"""How often the checkpoint is written on the way; the last time is the end."""


@dataclass(frozen=True)
class Options:
    """What a training run is given."""

    folder: Path
    tokenizer: Path
    steps: int
    minutes: float
    seed: int
    workers: int
    rate: float = PEAK_RATE
    """The highest learning rate."""
    resume: Path | None = None
    """A checkpoint to start from, instead of random weights."""


def train(options: Options) -> None:
    """Train to the end of the schedule and write the checkpoint."""
    with tempfile.TemporaryDirectory() as scratch:
        meeting = f"file://{scratch}/meeting"
        spawn(_worker, (options, meeting), nprocs=options.workers)  # type: ignore[no-untyped-call]


def rate_share(progress: float) -> float:
    """The share of the highest learning rate: a short rise, a plateau, a cosine to zero."""
    if progress < WARMUP:
        return max(progress / WARMUP, 0.01)
    if progress < DECAY_FROM:
        return 1.0
    turn = (progress - DECAY_FROM) / (1 - DECAY_FROM)
    return 0.5 + 0.5 * math.cos(math.pi * turn)


def _worker(rank: int, options: Options, meeting: str) -> None:
    """One process of the training; the first one also reports and writes."""
    distributed.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=options.workers
    )
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    tokenizer = Tokenizer.from_file(str(options.tokenizer / "tokenizer.json"))
    model = new_model(tokenizer)
    if options.resume:
        model.load_state_dict(load_file(options.resume / "model.safetensors"), strict=False)
    network = Network(model)
    optimizers = _optimizers(model)
    per_worker = SAMPLES_PER_STEP // options.workers
    stream = batches(tokenizer, samples(options.seed * 1000 + rank), per_worker)
    started, done, snapshots = time.monotonic(), 0, 0
    losses: list[float] = []
    while (progress := _progress(options, done, time.monotonic() - started)) < 1.0:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = options.rate * rate_share(progress)
        losses.append(_step(model, network, optimizers, next(stream)))
        done += 1
        if rank == 0 and done % REPORT_EVERY == 0:
            seconds = time.monotonic() - started
            mean = sum(losses) / len(losses)
            losses.clear()
            print(f"step {done}  {progress:.1%}  loss {mean:.4f}  {seconds:.0f} s", flush=True)
        if rank == 0 and int(progress * SNAPSHOTS) > snapshots:
            snapshots = int(progress * SNAPSHOTS)
            write_checkpoint(model, options.tokenizer, options.folder)
    if rank == 0:
        write_checkpoint(model, options.tokenizer, options.folder)
        print(f"{done} steps in {time.monotonic() - started:.0f} s", flush=True)
    distributed.destroy_process_group()


def _progress(options: Options, done: int, seconds: float) -> float:
    """From 0 at the start to 1 at the end; the same in every worker."""
    if not options.minutes:
        return done / options.steps
    progress = torch.tensor(min(1.0, seconds / (60 * options.minutes)))
    distributed.broadcast(progress, src=0)
    return float(progress)


def _step(
    model: Qwen3ForCausalLM, network: Network, optimizers: list[Optimizer], step: list[Batch]
) -> float:
    """One update; the loss is the mean over the learned tokens of this worker's batches."""
    learned = sum(int((batch.targets >= 0).sum()) for batch in step)
    total = 0.0
    for batch in step:
        loss = network.loss(batch) / learned
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    _average_gradients(model)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return total


def _average_gradients(model: Qwen3ForCausalLM) -> None:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    start = 0
    for gradient in gradients:
        end = start + gradient.numel()
        gradient.copy_(flat[start:end].view_as(gradient))
        start = end


def _optimizers(model: Qwen3ForCausalLM) -> list[Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    layers = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(parameter) for parameter in layers}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(layers, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="folder of the tokenizer, if another")
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rate", type=float, default=PEAK_RATE)
    parser.add_argument("--resume", type=Path, help="folder of a checkpoint to start from")
    given = parser.parse_args()
    given.tokenizer = given.tokenizer or given.folder
    train(Options(**vars(given)))


if __name__ == "__main__":
    main()
