"""The `folovllm` command; `python -m folovllm` is the same."""

import os
import sys

from folovllm.installation.parts import missing_line


def main() -> None:
    """Runs the command line."""
    if line := missing_line("client"):
        sys.exit(f"error: {line}")
    # Read when gRPC is first imported: its own remarks about connections are not for the terminal.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from folovllm_client.cli.commands import commands

    commands()


if __name__ == "__main__":
    main()
