"""`folovllm pull`, `list` and `rm`, and a model by its hub id, against a hub on the loopback."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from folovllm.errors import ConfigError
from folovllm.model_files import CONFIG_PATTERNS, DEMO_MODEL, resolve_model
from folovllm_client.cli.commands import commands
from support.fakes.hub import FakeHub, running_hub

MODEL = "org/tiny"
CONFIG = (DEMO_MODEL / "config.json").read_bytes()
FILES = {
    "config.json": CONFIG,
    "tokenizer.json": b"{}",
    "model.safetensors": bytes(range(256)) * 8000,
    "pytorch_model.bin": b"never fetched",
    "images/logo.png": b"neither",
}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub"


@pytest.fixture
def hub(cache: Path) -> Iterator[FakeHub]:
    with running_hub(cache) as hub:
        hub.files[MODEL] = dict(FILES)
        yield hub


def folovllm(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(commands, arguments, input=stdin)


def test_a_model_is_pulled_listed_and_removed(hub: FakeHub, cache: Path) -> None:
    result = folovllm("pull", MODEL)
    assert result.exit_code == 0, result.output
    folder = Path(result.stdout.strip())
    wanted = {name: data for name, data in FILES.items() if "/" not in name and "bin" not in name}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == wanted
    assert result.stderr == f"{MODEL}: 2.0 MB in 3 files\n{MODEL}: 2.0 MB\n"
    assert resolve_model(MODEL, CONFIG_PATTERNS) == folder

    lines = folovllm("list")
    assert lines.stdout.split(maxsplit=3) == [MODEL, "2.0", "MB", "can be served\n"]
    assert lines.stderr.startswith("1 model, 2.0 MB in ")

    asked = folovllm("rm", MODEL, stdin="n\n")
    assert asked.exit_code == 1 and f"Remove {MODEL}, 2.0 MB, from " in asked.stderr
    assert folder.is_dir()
    result = folovllm("rm", MODEL, "--yes")
    assert result.stderr == f"removed {MODEL}: 2.0 MB are free again\n"
    assert [*cache.glob("models--*")] == []
    assert folovllm("list").stderr.splitlines()[0].startswith("0 models, 0 bytes in ")
    result = folovllm("rm", MODEL)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {MODEL} is not in the cache at ")


def test_an_interrupted_pull_is_resumed(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a broken connection within a file, after the end of a pull at the next file."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr("time.sleep", lambda _: None)  # huggingface_hub's wait before it retries
    hub.cut = {"model.safetensors"}
    assert folovllm("pull", MODEL).exit_code == 0
    half = len(FILES["model.safetensors"]) // 2
    assert hub.downloads[-2:] == [
        ("model.safetensors", None),
        ("model.safetensors", f"bytes={half}-"),
    ]
    [snapshot] = (cache / "models--org--tiny" / "snapshots").iterdir()
    weights = snapshot / "model.safetensors"
    assert weights.read_bytes() == FILES["model.safetensors"]
    weights.resolve().unlink()
    weights.unlink()
    assert "no: it is not complete: has no weights" in folovllm("list").stdout
    hub.downloads.clear()
    assert folovllm("pull", MODEL).exit_code == 0
    assert hub.downloads == [("model.safetensors", None)]


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "RepoNotFound", f"the hub has no model {MODEL}, or it is private: check the name"),
        (401, "RepoNotFound", f"the hub has no model {MODEL}, or it is private: check the name"),
        (401, "GatedRepo", f"{MODEL} is gated: accept its terms on its page"),
        (403, "GatedRepo", f"{MODEL} is gated: accept its terms on its page"),
        (500, "", f"{MODEL} cannot be fetched from the hub: "),
    ],
)
def test_a_model_that_cannot_be_had_is_one_line(
    hub: FakeHub, status: int, code: str, message: str
) -> None:
    hub.refused[MODEL] = status, code
    result = folovllm("pull", MODEL)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("config", "obstacle"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architecture GPT2LMHeadModel is not supported"),
        ({"quantization_config": {"bits": 4}}, "config.json: quantized checkpoints are not"),
    ],
)
def test_a_model_that_cannot_be_served_is_said(
    hub: FakeHub, config: dict[str, object], obstacle: str
) -> None:
    hub.files[MODEL]["config.json"] = json.dumps(json.loads(CONFIG) | config).encode()
    assert f"{MODEL}: 2.0 MB; it cannot be served: {obstacle}" in folovllm("pull", MODEL).stderr
    assert f"  no: {obstacle}" in folovllm("list").stdout


def test_what_is_no_model_of_the_hub_is_not_asked_for(hub: FakeHub) -> None:
    hub.files[MODEL] = {"config.json": CONFIG, "model.gguf": b"GGUF"}
    for model, message in {
        MODEL: f"{MODEL} has no weights in safetensors, the format that is read",
        "./tiny": "./tiny is a path; give a hub id such as Qwen/Qwen3-0.6B",
        "a b": "a b is neither a folder nor a hub id, which is like Qwen/Qwen3-0.6B",
    }.items():
        result = folovllm("pull", model)
        assert (result.exit_code, result.stderr) == (1, f"error: {message}\n")
    assert hub.downloads == []


@pytest.mark.parametrize("state", ["not complete", "not"])
def test_without_a_hub_a_model_says_where_it_is_missing(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    from huggingface_hub import constants

    if state == "not complete":  # the tokenizer service alone has asked for it
        resolve_model(MODEL, CONFIG_PATTERNS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError) as refused:
        resolve_model(MODEL, ("*.safetensors",))
    assert str(refused.value) == (
        f"{MODEL} is {state} in the cache at {cache} and the hub cannot be reached; on a machine "
        f"with network: folovllm pull {MODEL}, or copy its folder here and give its path"
    )
    assert "the hub cannot be reached" in folovllm("pull", MODEL).stderr
