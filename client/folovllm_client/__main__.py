"""The `folovllm` command; `python -m folovllm_client` is the same."""

import os


def main() -> None:
    """Runs the command line."""
    # Read when gRPC is first imported: its own remarks about connections are not for the terminal.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from folovllm_client.cli.commands import commands

    commands()


if __name__ == "__main__":
    main()
