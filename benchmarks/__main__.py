"""The benchmarks by name: `python -m benchmarks NAME [options]`; without a name it lists them."""

import importlib
import sys
from collections.abc import Sequence

# By name: a module with `main(argv)`, and what is measured.
BENCHMARKS = {
    "cpu": ("cpu.command", "this CPU: our engine and services beside other engines"),
    "gpu": ("gpu.command", "this NVIDIA GPU: our engine, its kernels, other engines"),
    "services": ("services.tokenizer", "the tokenizer service: deltas, chats, memory"),
    "wire": ("services.wire", "a step's token ids from the engine to the detokenizer"),
    "start-up": ("services.start_up", "`folovllm serve`: time to serving, and memory"),
    "parameters": (
        "micro.parameter_costs",
        "a step with each parameter over one without",
    ),
    "speculation": ("micro.speculation", "decoding with and without speculation"),
    "checkouts": ("checkouts", "this checkout over another one, in turns"),
    "report": ("results.report", "tables and a plot of files written by --json"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark that the first argument names."""
    name, *rest = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    if name in BENCHMARKS:
        importlib.import_module(f"benchmarks.{BENCHMARKS[name][0]}").main(rest)
        return
    print("usage: python -m benchmarks NAME [options]; NAME --help lists its options\n")
    for known, (_, summary) in BENCHMARKS.items():
        print(f"  {known:<15}{summary}")
    if name not in ("-h", "--help"):
        sys.exit(f"\nerror: there is no benchmark {name!r}")


if __name__ == "__main__":
    main()
