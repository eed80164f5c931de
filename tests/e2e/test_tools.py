"""What a newcomer runs: buf curl, the command line, the examples; and what idle services cost."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from support.processes.service_processes import ServiceProcess

ROOT = Path(__file__).parents[2]


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("method", ["Generate", "GenerateOnce"])
def test_buf_curl_finds_the_schema_by_reflection(tokenizer: ServiceProcess, method: str) -> None:
    buf = shutil.which("buf", path=str(Path(sys.executable).parent))
    assert buf, "buf-bin is one of the dev extra"
    body = {"text": "Once upon a time", "samplingParams": {"temperature": 0, "maxTokens": 8}}
    output = run(
        buf,
        "curl",
        "--protocol",
        "grpc",
        "--http2-prior-knowledge",
        "--data",
        json.dumps(body),
        f"http://{tokenizer.address}/folovllm.v1.TokenizerService/{method}",
    )
    assert '"finishReason": "FINISH_REASON_LENGTH"' in output and '"text"' in output


@pytest.mark.parametrize("example", ["async_streaming.py", "raw_stubs.py"])
def test_examples_with_a_server(tokenizer: ServiceProcess, example: str) -> None:
    output = run(sys.executable, f"examples/{example}", tokenizer.address)
    assert "Once upon a time" in output or "INVALID_ARGUMENT: top_p" in output


def test_example_of_a_chat(tokenizer: ServiceProcess) -> None:
    answer, person, *turns = run(
        sys.executable, "examples/chat_with_tools.py", tokenizer.address
    ).splitlines()
    assert answer.startswith("47 + 38 = 85.  (thought: ") and answer.count("8") > 3
    assert person == "name='Anna' age=12 city='Oslo'"
    assert [turn.partition(":")[0] for turn in turns] == ["user", "assistant", "tool", "assistant"]


def test_example_without_a_server() -> None:
    output = run(sys.executable, "examples/offline_generation.py")
    assert "sequence 1: WAITING" in output and "'Once upon a time' -> '" in output


def test_the_command_line(tokenizer: ServiceProcess) -> None:
    folovllm = (sys.executable, "-m", "folovllm_client")
    server = ("--server", tokenizer.address)
    ids = run(*folovllm, "tokenize", "Once upon a time", *server).split()
    assert run(*folovllm, "detokenize", *ids, *server) == "Once upon a time\n"
    generate = (*folovllm, "generate", "Once upon a time", "--max-tokens", "8", "--seed", "1")
    text = run(*generate, *server)
    assert text.strip() and text == run(*generate, *server)
    chat = (*folovllm, "chat", "What is 47 + 38?", "--temperature", "0")
    assert run(*chat, *server) == "47 + 38 = 85.\n"
    assert "Qwen3ForCausalLM" in run(*folovllm, "info", *server)
    assert "SERVING" in run(*folovllm, "health", *server)


def test_idle_services_are_small_and_use_no_cpu(
    engine: ServiceProcess, tokenizer: ServiceProcess
) -> None:
    assert tokenizer.memory() <= 250 * 2**20
    # A build for CUDA takes more, also where there is no GPU.
    assert engine.memory() <= (700 if torch.version.cuda is None else 1200) * 2**20
    before = engine.cpu_seconds() + tokenizer.cpu_seconds()
    time.sleep(3)  # the time over which the use is measured
    used = engine.cpu_seconds() + tokenizer.cpu_seconds() - before
    assert used <= 0.06, f"{used:.2f} s of CPU in 3 s of doing nothing"
