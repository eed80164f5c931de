"""Builds the containers, brings them up, generates through the published port, takes them down.

    python -m tools.compose_test

Needs Docker with its Compose plugin, or docker-compose 1.29. FOLOVLLM_PORT is the published port
(default: a free one), DOCKER_BUILD_ARGS are more options of the build, and Compose's own variables
apply, such as COMPOSE_FILE. Exit status 0 when everything held.
"""

import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc

from folovllm.errors import FolovError, from_rpc_error
from folovllm.serving.healthcheck import TOKENIZER_SERVICE, check_health
from folovllm.v1 import tokenizer_service_pb2, tokenizer_service_pb2_grpc, types_pb2
from folovllm_client.api.sync_client import Client

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("engine", "tokenizer")
PROMPT = "Once upon a time"
START_SECONDS = 180.0
"""How long the containers may take to start."""


class CheckError(Exception):
    """The containers did not do what they should; the message says what."""


class Compose:
    """One Compose project with a name of its own."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._command = [*command, "--project-name", "folovllm-test"]
        self._environment = environment

    def run(self, *arguments: str, timeout: float | None = None) -> None:
        """Runs a Compose command with its output shown. Raises CheckError, also after `timeout`."""
        command = [*self._command, *arguments]
        say(shlex.join(command))
        try:
            subprocess.run(command, cwd=ROOT, env=self._environment, timeout=timeout, check=True)
        except subprocess.SubprocessError as error:
            raise CheckError(str(error)) from None

    def container(self, service: str) -> str:
        """The id of a running service's container. Raises CheckError."""
        return output([*self._command, "ps", "-q", service], self._environment)


def main() -> int:
    """Runs the whole check and returns the exit status."""
    names = ("FOLOVLLM_PORT", "FOLOVLLM_ENGINE_PORT")
    ports = {name: os.environ.get(name) or str(free_port()) for name in names}
    try:
        compose = Compose(compose_command(), {**os.environ, **ports})
        compose.run("build", *shlex.split(os.environ.get("DOCKER_BUILD_ARGS", "")))
        try:
            check(compose, f"127.0.0.1:{ports['FOLOVLLM_PORT']}")
        except (CheckError, FolovError):
            compose.run("logs", "--tail", "50")
            raise
        finally:
            compose.run("down", "--volumes", "--remove-orphans")
    except (CheckError, FolovError) as error:
        print(f"compose-test: {error}", file=sys.stderr)
        return 1
    say("passed")
    return 0


def check(compose: Compose, address: str) -> None:
    """Brings the services up and checks them, down to a clean stop. Raises CheckError."""
    started = time.monotonic()
    # Returns once the engine is healthy; one that ends again and again would never be.
    compose.run("up", "--detach", timeout=START_SECONDS)
    wait_until_serving(address)
    say(f"serving on {address} after {time.monotonic() - started:.1f} s")

    text = generate(address)
    if not text.strip():
        raise CheckError("the generated text is empty")
    say(f"{PROMPT!r} -> {text!r}")
    with Client(address, timeout=60) as client:
        info = client.model_info()
    say(f"computed in {info.dtype} on {info.device}, kernels {info.kernels}")

    containers = {service: compose.container(service) for service in SERVICES}
    for service, container in containers.items():
        user = output(["docker", "exec", container, "id", "-u"])
        if user == "0":
            raise CheckError(f"{service} runs as root")
        say(f"{service} runs as user {user}")
        cache = output(["docker", "exec", container, "stat", "--format", "%u %a", "/cache"])
        if cache != f"{user} 700":
            raise CheckError(f"others than {service} may use its /cache: owner and mode {cache}")

    compose.run("stop")
    for service, container in containers.items():
        status = output(["docker", "inspect", "--format", "{{.State.ExitCode}}", container])
        if status != "0":
            raise CheckError(f"{service} ended with status {status} when it was asked to stop")


def compose_command() -> list[str]:
    """The newer plugin where Docker has it, else docker-compose. Raises CheckError."""
    for command in (["docker", "compose"], ["docker-compose"]):
        try:
            if subprocess.run([*command, "version"], capture_output=True).returncode == 0:
                return command
        except FileNotFoundError:
            continue
    raise CheckError("neither `docker compose` nor `docker-compose` is here; install Docker")


def wait_until_serving(address: str) -> None:
    """Returns when the tokenizer service says SERVING. Raises CheckError where it never does."""
    give_up = time.monotonic() + START_SECONDS
    status = ""
    while status != "SERVING":
        if time.monotonic() > give_up:
            raise CheckError(f"{address} is not serving after {START_SECONDS:.0f} s: {status}")
        time.sleep(0.2)
        try:
            status = check_health(address, TOKENIZER_SERVICE)
        except FolovError as error:
            status = str(error)


def generate(address: str) -> str:
    """The continuation of PROMPT, streamed and joined. Raises FolovError."""
    request = tokenizer_service_pb2.GenerateRequest(
        text=PROMPT, sampling_params=types_pb2.SamplingParams(max_tokens=32, temperature=0.0)
    )
    with grpc.insecure_channel(address) as channel:
        stub = tokenizer_service_pb2_grpc.TokenizerServiceStub(channel)
        try:
            return "".join(output.text for output in stub.Generate(request, timeout=60))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None


def output(command: list[str], environment: dict[str, str] | None = None) -> str:
    """What a command prints. Raises CheckError where it fails."""
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        raise CheckError(f"`{shlex.join(command)}` failed: {result.stderr.strip()}")
    return result.stdout.strip()


def free_port() -> int:
    """A port of this machine that nothing uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def say(text: str) -> None:
    """Prints a line of progress, in order with what the commands print."""
    print(f"compose-test: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
