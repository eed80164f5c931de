"""Generates the synchronous client from the asynchronous one: sync_*.py from async_*.py.

    .venv/bin/python -m tools.generate_sync_client [--check]

unasync rewrites the code word by word, and PHRASES the docstrings. What cannot be rewritten so is
in async_calls.py and sync_calls.py, both written by hand. With --check nothing is written, and the
exit status is 1 if a file differs from what would be.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import unasync

API = Path(__file__).resolve().parent.parent / "client" / "folovllm_client" / "api"
GENERATED = {
    "calls/async_calling.py": "calls/sync_calling.py",
    "async_client.py": "sync_client.py",
    "async_tokenizing.py": "sync_tokenizing.py",
}
NAMES = {
    "AsyncCalling": "Calling",
    "AsyncClient": "Client",
    "AsyncServer": "SyncServer",
    "AsyncTokenizingCalls": "TokenizingCalls",
    "EngineServiceAsyncStub": "EngineServiceStub",
    "TokenizerServiceAsyncStub": "TokenizerServiceStub",
    "aclosing": "closing",
    "async_calling": "sync_calling",
    "async_calls": "sync_calls",
    "async_tokenizing": "sync_tokenizing",
    "call_async": "call",
}
# No line is broken anew, so a replacement must fit into its line.
PHRASES = {
    "calls/async_calling.py": {
        "AsyncCalling: how a client calls its servers, from asyncio.": (
            "Calling: how a client calls its servers, from ordinary code."
        ),
        "The connections of AsyncClient, and": "The connections of Client, and",
    },
    "async_client.py": {
        "AsyncClient: the tokenizer service, called from asyncio.": (
            "Client: the tokenizer service, called from ordinary code."
        ),
        "A connection to a tokenizer service, made and used inside one running event loop.": (
            "A connection to a tokenizer service; threads may share it."
        ),
        " Cancelling the task that waits for a call\n    cancels the call.": "",
        "`async for piece in client.stream(…)`": "`for piece in client.stream(…)`",
        "`contextlib.aclosing`": "`contextlib.closing`",
        "coroutine functions are awaited.": "coroutine functions are run.",
    },
    "async_tokenizing.py": {
        "AsyncTokenizingCalls: text, token ids and the tokenizer itself, from asyncio.": (
            "TokenizingCalls: text, token ids and the tokenizer itself, from ordinary code."
        ),
        "The part of AsyncClient that needs no engine.": "The part of Client that needs no engine.",
    },
}
HEADER = "# Generated from {source} by `make client-sync`; do not edit.\n"


def generate(source: str) -> str:
    """The synchronous form of a file of the client, with a header that says so."""
    with tempfile.TemporaryDirectory() as folder:
        rule = unasync.Rule(str(API), folder, additional_replacements=NAMES)
        unasync.unasync_files([str(API / source)], [rule])
        text = Path(folder, source).read_text(encoding="utf-8")
    for phrase, replacement in PHRASES[source].items():
        if phrase not in text:
            sys.exit(f"error: {source} no longer says {phrase!r}; mend {Path(__file__).name}")
        text = text.replace(phrase, replacement)
    # Unlike an asynchronous generator, this one has a type that it returns.
    text = re.sub(r"\bGenerator\[(\w+), None\]", r"Generator[\1, None, None]", text)
    for arguments in (["check", "--quiet", "--fix-only"], ["format", "--quiet"]):
        text = _ruff(text, *arguments, "--stdin-filename", str(API / GENERATED[source]), "-")
    return HEADER.format(source=source) + text


def _ruff(text: str, *arguments: str) -> str:
    ruff = Path(sys.executable).parent / "ruff"
    command = [str(ruff), *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def main(check: bool) -> int:
    """Writes or checks the files; the exit status."""
    status = 0
    for source, target in GENERATED.items():
        path, text = API / target, generate(source)
        if not check:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            print(f"error: {target} is not what {source} gives; make client-sync", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(check=sys.argv[1:] == ["--check"]))
