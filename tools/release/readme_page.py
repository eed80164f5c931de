"""README's snippets, in the order of the page, as someone who pastes them one by one runs them.

    python readme_page.py REPOSITORY BUF

Starts the services of this environment and runs everything against them. Python runs in one
namespace, commands that ask a server ask a real one; what starts a service, builds or installs is
read by the parser of what it starts. Files are written to the working directory. The suite runs it
too, and `make release` from the wheel.
"""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from click.testing import CliRunner

import engine_service.config
import tokenizer_service.config
from folovllm_client.cli.commands import commands
from folovllm_client.launch.background import BackgroundServices
from folovllm_client.launch.service_commands import ServeOptions, service_commands

DEFAULT_ADDRESS = "localhost:50051"
FILES = {
    "weather.py": '''def get_weather(city: str) -> dict[str, object]:
    """Get the weather in a city."""
    return {"temperature": 21, "condition": "sunny"}
''',
    "book.txt": "Once upon a time there was a small dog.",
}
"""What the page takes as given."""


def snippets(page: str) -> Iterator[tuple[str, str]]:
    """The language and the text of each block that has one."""
    for block in re.finditer(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        yield block[1], block[2]


def run_page(root: Path, address: str, buf: Path) -> list[str]:
    """Runs every snippet; what each of those in Python printed. Raises AssertionError."""
    for name, text in FILES.items():
        Path(name).write_text(text)
    shell = Shell(root, address, buf)
    namespace: dict[str, object] = {"__name__": "__main__"}
    printed = []
    for language, text in snippets((root / "README.md").read_text(encoding="utf-8")):
        if language == "sh":
            shell.run(text)
            continue
        code = compile(text.replace(DEFAULT_ADDRESS, address), "README.md", "exec")
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(code, namespace)
        printed.append(output.getvalue())
    return printed


class Shell:
    """Runs the commands of the page against a tokenizer service."""

    def __init__(self, root: Path, address: str, buf: Path) -> None:
        """`root` is the repository's folder; `buf` stands for grpcurl too."""
        self._root = root
        self._address = address
        self._buf_program = buf
        self._programs: dict[str, Callable[[list[str]], None]] = {
            "make": self._make,
            "pip": self._pip,
            "folovllm": self._folovllm,
            "python": self._python,
            "torchrun": self._torchrun,
            "docker": self._docker,
            "grpcurl": self._grpcurl,
            "buf": self._buf,
        }

    def run(self, script: str) -> None:
        """Each line; fails at one that nothing here knows how to run."""
        for line in script.replace("\\\n", "").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                assert words[0] in self._programs, f"nothing here runs: {line}"
                self._programs[words[0]](words[1:])

    def _make(self, words: list[str]) -> None:
        assert f"\n{words[0]}:" in (self._root / "Makefile").read_text(), words

    def _pip(self, words: list[str]) -> None:
        project = (self._root / "pyproject.toml").read_text()
        extras = re.findall(r"\[(\w+)\]", " ".join(words))
        assert words[0] == "install" and all(f"\n{extra} = [" in project for extra in extras)

    def _folovllm(self, words: list[str]) -> None:
        command = commands.get_command(click.Context(commands), words[0])
        assert command is not None, words
        if words[0] == "serve" or "/" in " ".join(words):  # a hub's model is nobody's to fetch here
            command.make_context(words[0], words[1:]).close()
            return
        environment = {"FOLOVLLM_SERVER": self._address}
        result = CliRunner(env=environment).invoke(commands, words, input="What is 2 + 3?\n")
        assert result.exit_code == 0 and result.stdout.strip(), (words, result.output)

    def _python(self, words: list[str]) -> None:
        services = {"engine_service": engine_service, "tokenizer_service": tokenizer_service}
        assert words[0] == "-m"
        services[words[1]].config.parse_args(words[2:])

    def _torchrun(self, words: list[str]) -> None:
        self._python(words[words.index("-m") :])

    def _docker(self, words: list[str]) -> None:
        files = [words[i + 1] for i, word in enumerate(words) if word == "-f"]
        assert words[0] == "compose" and all((self._root / file).is_file() for file in files)

    def _grpcurl(self, words: list[str]) -> None:
        """By buf, which speaks to the same services in the same way."""
        body, address, method = words[words.index("-d") + 1], *words[-2:]
        schema = [
            str(self._root / words[i + 1]) for i, word in enumerate(words) if word == "-import-path"
        ]
        flags = [part for path in schema for part in ("--schema", path)]
        plain = ("--protocol", "grpc", "--http2-prior-knowledge", "-d", body)
        self._buf(["curl", *plain, *flags, f"http://{address}/{method}"])

    def _buf(self, words: list[str]) -> None:
        words = [word.replace(DEFAULT_ADDRESS, self._address) for word in words]
        command: list[str | Path] = [self._buf_program, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and done.stdout.strip().startswith("{"), done.stderr


def main(root: Path, buf: Path) -> None:
    """Runs the page against services of its own."""
    options = ServeOptions(port=0, engine_port=0, device="cpu")
    services = BackgroundServices(service_commands(options), options.address)
    with services.running():
        printed = run_page(root, options.address, buf)
    assert all(printed), "a snippet printed nothing"
    print(f"{len(printed)} snippets in Python, and all commands between them")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
