"""`folovllm info` and `health`: what a server serves, and whether it is ready."""

import dataclasses
from contextlib import suppress

import click

from folovllm.errors import NotFoundError, UnsupportedError
from folovllm.model_info import EngineState
from folovllm.serving.healthcheck import ENGINE_SERVICE, TOKENIZER_SERVICE
from folovllm_client.api.sync_client import Client
from folovllm_client.cli.console import UNARY_TIMEOUT, note, show_text
from folovllm_client.cli.group import examples
from folovllm_client.cli.request_options import server_option


@click.command(epilog=examples("folovllm info", "folovllm info --server localhost:50052"))
@server_option
def info(server: str) -> None:
    """Shows the model that is served.

    The server may be an engine service too.
    """
    with Client(server, UNARY_TIMEOUT) as client:
        service, _ = _find_service(client)
        served = client.model_info()
    values = {"service": service} | dataclasses.asdict(served)
    del values["engines"], values["default_sampling_params"]
    values["numerics_fingerprint"] = served.numerics_fingerprint or "not reproducible"
    values |= {f"engine {engine.address}": _state(engine) for engine in served.engines}
    width = max(map(len, values))
    for name, value in values.items():
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        show_text(f"{name:<{width}}  {shown or '-'}")
    if service == ENGINE_SERVICE:
        note("it takes token ids; chat, generate and tokenize ask a tokenizer service")


@click.command(epilog=examples("folovllm health && echo ready"))
@server_option
def health(server: str) -> None:
    """Shows whether the server is ready.

    The exit code is 0 when the server and its service are both SERVING.
    """
    with Client(server, UNARY_TIMEOUT) as client:
        service, status = _find_service(client)
        statuses = {"server": client.health(), service: status}
    width = max(map(len, statuses))
    for name, status in statuses.items():
        click.echo(f"{name:<{width}}  {status}")
    if set(statuses.values()) != {"SERVING"}:
        raise click.exceptions.Exit(1)


def _state(engine: EngineState) -> str:
    """Whether an engine is ready, and what was verified of it."""
    if not engine.num_verified:
        return engine.state
    return f"{engine.state}, {engine.num_verified} verified, {engine.num_differing} differing"


def _find_service(client: Client) -> tuple[str, str]:
    """The full name of the service that answers, and its health.

    Raises WrongServiceError where another server answers, and any other FolovError.
    """
    for service in (TOKENIZER_SERVICE, ENGINE_SERVICE):
        with suppress(NotFoundError, UnsupportedError):
            return service, client.health(service)
    client.model_info()  # says what is wrong
    raise NotFoundError(f"the server at {client.address} does not say whether it is ready")
