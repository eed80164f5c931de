"""What a start may wait for: modules that are large and needed later, if ever, are not loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import sys
from pathlib import Path
{program}
print(*sys.modules)
"""

_EVERY_MODULE_OF_CORE = """
import importlib, pkgutil
import engine_service.core as core
for module in pkgutil.walk_packages(core.__path__, core.__name__ + "."):
    importlib.import_module(module.name)
"""


def loaded_by(program: str) -> set[str]:
    """The modules that an interpreter has after it has run a program."""
    command = [sys.executable, "-c", _PROGRAM.format(program=program)]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    ("program", "later"),
    [
        # Whether the port is free is known before torch is loaded.
        ("import engine_service.__main__", {"torch", "numpy", "llguidance"}),
        ("import tokenizer_service.__main__", {"torch", "transformers", "numpy", "jinja2"}),
        (
            "import folovllm_client.cli.commands, folovllm_client.cli.serve.run",
            {"torch", "transformers", "numpy", "pydantic", "prompt_toolkit"},
        ),
        # Not among the packages of folovllm[client].
        (
            "import folovllm_client.api.sync_client, folovllm_client.api.async_client",
            {"structlog", "torch", "numpy", "click", "rich"},
        ),
        ("import folovllm_client.cli.commands", {"structlog", "rich", "platformdirs"}),
        ("import folovllm", {"click", "torch", "transformers", "numpy", "grpc", "google.protobuf"}),
        (_EVERY_MODULE_OF_CORE, {"torch", "numpy", "grpc", "google.protobuf"}),
    ],
)
def test_a_start_does_not_load_what_is_needed_later(program: str, later: set[str]) -> None:
    assert not loaded_by(program) & later


@pytest.mark.parametrize("own", ["client", "llm", "api", "cli"])
def test_a_users_module_beside_his_script_takes_nothing_from_us(tmp_path: Path, own: str) -> None:
    """`client` was the name of our package; a script's folder comes first on its path."""
    (tmp_path / f"{own}.py").write_text("raise SystemExit('the wrong one')")
    script = tmp_path / "script.py"
    script.write_text("from folovllm import Client, AsyncClient, Toolbox")
    subprocess.run([sys.executable, script], cwd=tmp_path, check=True)
