"""What speculation gains and costs: decoding with it and without, in turns.

    python -m benchmarks speculation [--model qwen3-0.6b] [--quantization int8] [--batch 1]

Three texts, decoded greedily after their prompts:

- edit: the prompt is a file, and the answer the file with about one token in 16 beginning a change,
  in which one to three tokens are replaced, inserted or left out. No token occurs twice in the
  file, so a guess is wrong only at a change; real code also repeats itself elsewhere.
- new: no two tokens of it have occurred together before, so there is nothing to guess.
- misleading: each four tokens of the answer are in the prompt, followed by something else each
  time. Nothing is worse for guesses by lookup.

The model has the shape that is named and is made to say these texts; a step of it takes as long as
any. The engines run in this process, and prompts are computed before the clock starts.
"""

from collections.abc import Sequence

import torch

from benchmarks.harness.options import add_json, add_model, make_parser
from benchmarks.harness.random_checkpoint import copying_checkpoint
from benchmarks.micro.edited_texts import Text, make_texts
from benchmarks.peers.folovllm_engine import SteppedEngine
from benchmarks.results.recorder import Recorder
from engine_service.config import (
    QUANTIZATIONS,
    CacheConfig,
    EngineConfig,
    ModelConfig,
    SchedulerConfig,
)
from engine_service.engine.factory import build_engine

_ENGINES = {"without": "none", "folovllm": "ngram"}
"""The engines by their speculation."""


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    parser = make_parser("speculation", __doc__)
    add_model(parser)
    add_json(parser)
    add = parser.add_argument
    add("--quantization", choices=QUANTIZATIONS, default="none", help="(%(default)s)")
    add("--batch", type=int, default=1, help="equal requests at once (%(default)s)")
    add("--tokens", type=int, default=256, help="of each answer (%(default)s)")
    add("--repeats", type=int, default=5, help="turns of each (%(default)s)")
    args = parser.parse_args(argv)
    if args.model == "demo":
        parser.error("the embedded model cannot be made to say the texts")
    torch.set_num_threads(args.threads)
    setting = f"{args.model}, quantization {args.quantization}, batch {args.batch}"
    recorder = Recorder("speculation", f"{setting}, {args.threads} threads", args.json)
    texts = make_texts(args.tokens)
    continuations = [text.continuation for text in texts]
    folder = copying_checkpoint(args.model, f"says-{args.tokens}", continuations, args.cache)
    model = ModelConfig(str(folder), device="cpu", quantization=args.quantization)
    num_blocks = 10 * args.tokens * args.batch // 16 + 1
    cache = CacheConfig(num_blocks=num_blocks, enable_prefix_caching=False)
    configs = {
        name: EngineConfig(model, cache, SchedulerConfig(speculation=speculation))
        for name, speculation in _ENGINES.items()
    }
    engines = {name: SteppedEngine(build_engine(config)) for name, config in configs.items()}
    for text in texts:
        _measure(text, engines, args.batch, args.repeats, recorder)
    recorder.finish()


def _measure(
    text: Text,
    engines: dict[str, SteppedEngine],
    batch: int,
    repeats: int,
    recorder: Recorder,
) -> None:
    """Decodes a text in turns A B A B, after one turn each to warm up."""
    prompts, new_tokens = [text.prompt] * batch, len(text.continuation) - 1
    for engine in engines.values():
        assert engine.complete(prompts, new_tokens) == [text.continuation[1:]] * batch
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(repeats):
        for name, engine in engines.items():
            clock = engine.generate(prompts, new_tokens)
            rates[name].append(clock.timing().decode_rate)
    for name, values in rates.items():
        recorder.add_values(text.name, "tok/s", values, name)
    without, speculating = (rates[name] for name in _ENGINES)
    ratios = [fast / slow for slow, fast in zip(without, speculating, strict=True)]
    recorder.add_values(f"{text.name}, ratio", "x", ratios)
    # The clock of the last turn of the engine that speculates.
    recorder.add_values(f"{text.name}, tokens a step", "tok/step", [clock.tokens_per_arrival])
