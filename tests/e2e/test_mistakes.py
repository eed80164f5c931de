"""What people type wrong: each answer says what is wrong and what to type, in at most two lines.

A table of commands, each with its exit code and what it prints; a test runs them in this process
against real services. In a line, `…` stands for anything.
"""

import http.server
import re
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from folovllm import LLM, Client, FolovError, ModelConfig, SamplingParams
from folovllm_client.cli.commands import commands
from folovllm_client.cli.console import command_name
from support.processes.service_processes import ServiceProcess, free_port

MISTAKES = r"""
$ folovllm genrate hi                                 # 2
there is no command genrate; did you mean `folovllm generate`?
$ folovllm xyzzy                                      # 2
there is no command xyzzy; `folovllm --help` lists the commands
$ folovllm generate                                   # 2
PROMPT is missing; `folovllm generate --help` says what to type
$ folovllm generate Once upon a time                  # 2
'upon a time' is too much; put a text of several words in quotes
$ folovllm generate ""                                # 1
the prompt is empty; give it a text or token ids
$ folovllm generate hi --temprature 0                 # 2
there is no option --temprature; did you mean --temperature?
$ folovllm generate hi --temperature hot              # 2
--temperature must be a number, got 'hot'
$ folovllm generate hi --temperature 500              # 1
--temperature must be between 0 and 100, got 500
$ folovllm generate hi --top-p 0                      # 1
--top-p must be between 0 (excluded) and 1, got 0
$ folovllm generate hi --max-tokens 0                 # 1
--max-tokens must be at least 1, or -1 for as many as the context has room for, got 0
$ folovllm generate hi --max-tokens 100000            # 1
--max-tokens (100000) and the prompt (1 tokens) together are over the model's 2048; ask for …
$ folovllm generate hi --min-tokens 5 --max-tokens 2  # 1
--min-tokens (5) is over --max-tokens (2)
$ folovllm generate hi --n 1000                       # 1
--n must be between 1 and 128, got 1000
$ folovllm generate hi --logprobs 50                  # 1
--logprobs must be between 0 and 20, got 50
$ folovllm generate hi --seed -5                      # 1
--seed must be at least 0, got -5
$ folovllm generate hi --stop ""                      # 1
--stop must not be empty
$ folovllm generate hi --json-schema missing.json     # 2
--json-schema: 'missing.json': No such file or directory
$ folovllm generate hi --json-schema broken.json      # 2
--json-schema: broken.json holds no JSON: …
$ folovllm generate hi --regex "("                    # 1
--regex: …unclosed group…
$ folovllm generate hi --regex a --json-schema s.json # 1
--regex and --json-schema exclude each other; give one
$ folovllm generate hi --timeout 0                    # 2
--timeout must be above 0, got 0…
$ folovllm generate hi --ignore-eos --timeout 0.001   # 1
no complete answer within 0.001 s
$ folovllm generate hi --server http://localhost:50051  # 1
--server must be HOST:PORT; 'http://localhost:50051' begins with http://, …; type localhost:50051
$ folovllm generate hi --server localhost             # 1
--server must be HOST:PORT; 'localhost' has no port; type localhost:50051
$ folovllm generate hi --server localhost:99999       # 1
--server must be HOST:PORT; … the port '99999', which is not from 1 to 65535; type localhost:50051
$ folovllm generate hi --server no-such.invalid:50051 # 1
the host of no-such.invalid:50051 cannot be found (…); choose another with --server
$ folovllm generate hi --server 127.0.0.1:{closed}    # 1
nothing answers at 127.0.0.1:…; start it with `folovllm serve`, or choose another with --server
$ folovllm generate hi --server {engine}              # 1
at {engine} is the engine service, which takes token ids; clients ask the tokenizer service, …
$ folovllm chat hi --server {web}                     # 1
what answers at {web} does not speak gRPC; clients ask the tokenizer service, by default on port …
$ FOLOVLLM_SERVER=localhost folovllm info             # 1
FOLOVLLM_SERVER must be HOST:PORT; 'localhost' has no port; type localhost:50051
$ folovllm chat hi --tools missing.py                 # 2
--tools: File 'missing.py' does not exist
$ folovllm chat hi --tools broken.py                  # 1
cannot load tools from broken.py: SyntaxError: …
$ folovllm chat hi --tools empty.py                   # 1
cannot load tools from empty.py: it defines no public function
$ folovllm chat hi --thinking-budget -1               # 2
--thinking-budget must be at least 0, got -1
$ folovllm detokenize hello                           # 2
ID... must be a whole number, got 'hello'
$ folovllm detokenize 99999999                        # 1
token id 99999999 is not in the vocabulary of 2048 ids
$ folovllm serve --port 99999                         # 2
--port must be between 0 and 65535, got 99999
$ FOLOVLLM_PORT=abc folovllm serve                    # 2
--port (FOLOVLLM_PORT) must be a whole number, got 'abc'
$ folovllm serve --port {taken}                       # 1
cannot listen on 127.0.0.1:{taken}: the port is in use; … or choose one with --port
$ folovllm serve --port 7000 --engine-port 7000       # 1
--port and --engine-port are both 7000; choose two ports
$ folovllm serve --engine localhost                   # 1
--engine must be HOST:PORT; 'localhost' has no port; type localhost:50052
$ folovllm serve --quantization int3                  # 2
--quantization must be one of none, int8, int4, got 'int3'
$ FOLOVLLM_ENGINE_DTYPE=fp8 folovllm serve            # 2
--dtype (FOLOVLLM_ENGINE_DTYPE) must be one of auto, float32, bfloat16, float16, got 'fp8'
$ folovllm serve --max-num-seqs 0                     # 2
--max-num-seqs must be at least 1, got 0
$ folovllm serve --prot 1                             # 2
there is no option --prot; did you mean --port?
$ folovllm run ./nowhere                              # 1
there is no folder ./nowhere; give a model's folder, or a hub id such as Qwen/Qwen3-0.6B
$ folovllm run ./folder                               # 1
folder has no config.json; a model's folder holds config.json, tokenizer.json and *.safetensors
$ folovllm pull ./folder                              # 1
./folder is a path; give a hub id such as Qwen/Qwen3-0.6B
$ folovllm rm nobody/nothing                          # 1
nobody/nothing is not in the cache at …; `folovllm list` shows what is
$ folovllm parity --model ./nowhere                   # 1
there is no folder ./nowhere; give a model's folder, or a hub id such as Qwen/Qwen3-0.6B
$ folovllm perplexity                                 # 2
--file is missing; `folovllm perplexity --help` says what to type
$ folovllm completion tcsh                            # 2
SHELL must be one of bash, zsh, fish, got 'tcsh'
$ folovllm doctor --yes                               # 2
--yes is for --clear-caches; add that, or leave --yes out
"""


class Mistake(NamedTuple):
    """A command, its exit code, and the line after `error: `."""

    command: str
    exit_code: int
    line: str


def mistakes() -> list[Mistake]:
    pattern = r"^\$ (.+?) +# (\d)\n(.+)$"
    found = [Mistake(m[1], int(m[2]), m[3]) for m in re.finditer(pattern, MISTAKES, re.MULTILINE)]
    assert 2 * len(found) == len(MISTAKES.strip().splitlines())
    return found


class Web(http.server.BaseHTTPRequestHandler):
    """Speaks HTTP/1.1, and says nothing of it."""

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def web_server() -> Iterator[str]:
    """The address of a web server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{web.server_port}"
        web.shutdown()


@pytest.fixture(scope="module")
def places(services: tuple[ServiceProcess, ServiceProcess]) -> Iterator[dict[str, object]]:
    engine, tokenizer = services
    with web_server() as web:
        yield {
            "server": tokenizer.address,
            "engine": engine.address,
            "web": web,
            "taken": tokenizer.port,
            "closed": free_port(),
        }


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with files of all kinds."""
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("def f(:\n")
    Path("empty.py").write_text("x = 1\n")
    Path("broken.json").write_text("{")
    Path("s.json").write_text("{}")
    Path("folder").mkdir()


def pattern(line: str) -> str:
    return ".*".join(map(re.escape, line.split("…")))


def test_the_table_is_long_enough() -> None:
    assert len(mistakes()) >= 40


@pytest.mark.parametrize("mistake", mistakes(), ids=lambda mistake: mistake.command)
def test_a_mistake_is_answered_in_a_line(
    mistake: Mistake, places: dict[str, object], desk: None
) -> None:
    words = shlex.split(mistake.command.format(**places))
    variables = {"FOLOVLLM_SERVER": str(places["server"])}
    while words[0] != "folovllm":
        name, _, variables[name] = words.pop(0).partition("=")
    result = CliRunner(env=variables).invoke(commands, words[1:], input="")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    printed = result.stderr.replace(f"`{command_name()} ", "`folovllm ")
    assert re.fullmatch(f"error: {pattern(mistake.line.format(**places))}\n", printed), printed
    assert (result.exit_code, result.stdout.strip()) == (mistake.exit_code, "")


IN_PYTHON = r"""
>>> Client("localhost")
address must be HOST:PORT; 'localhost' has no port; type localhost:50051
>>> client.generate(["a", "b"])
one prompt a call; generate_many takes several
>>> client.generate("a", temperatur=0)
…did you mean 'temperature'?
>>> client.generate("a", SamplingParams(top_p=0.5), top_p=0.9)
…top_p…
>>> client.generate("a", timeout=0.0001)
no complete answer within 0.0001 s
>>> client.chat([{"role": "wizard", "content": "hi"}])
messages[0].role: role must be one of …, got 'wizard'
>>> client.chat("hi", response_format=7)
response_format must be …, got 7
>>> closed.generate("a")
the client is closed; open another
>>> SamplingParams(top_p=2)
top_p must be between 0 (excluded) and 1, got 2
>>> SamplingParams(structured_output={"type": "object"})
structured_output …a schema is {"json": schema}
>>> SamplingParams(best_of=4)
best_of …
>>> ModelConfig(dtype="fp8")
dtype must be one of auto, float32, bfloat16, float16, got 'fp8'
>>> LLM(max_model_length=3)
max_model_length is not an argument here; did you mean max_model_len?; …
>>> LLM("./nowhere")
there is no folder ./nowhere; give a model's folder, or a hub id such as Qwen/Qwen3-0.6B
"""


PUBLIC = {each.__name__: each for each in (Client, LLM, ModelConfig, SamplingParams)}


@pytest.mark.parametrize(("code", "line"), re.findall(r"^>>> (.+)\n(.+)$", IN_PYTHON, re.MULTILINE))
def test_a_mistake_in_python_is_answered_in_a_line(
    code: str, line: str, places: dict[str, object]
) -> None:
    closed = Client(str(places["server"]))
    closed.close()
    with Client(str(places["server"])) as client:
        names = {"client": client, "closed": closed, **PUBLIC}
        with pytest.raises((FolovError, TypeError)) as caught:
            eval(code, names)
    assert re.fullmatch(pattern(line), str(caught.value)), str(caught.value)
    assert caught.value.__cause__ is None, "a chain of errors hides the one that matters"
