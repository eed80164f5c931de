import hashlib
import json
from pathlib import Path

import pytest

from folovllm.errors import ConfigError
from folovllm.model_files import (
    DEMO_MODEL,
    chat_template_fingerprint,
    model_fingerprint,
    read_chat_template,
    read_json,
    resolve_model,
    tokenizer_fingerprint,
)


def test_none_is_the_embedded_model_and_a_folder_is_itself(tmp_path: Path) -> None:
    assert resolve_model(None, ()) == DEMO_MODEL
    assert resolve_model(str(tmp_path), ()) == tmp_path


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_path_that_is_no_folder_is_said_in_one_line(model: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resolve_model(model, ())
    assert model in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "models/Qwen3-0.6",
            "there is no folder models/Qwen3-0.6; did you mean models/Qwen3-0.6B?",
        ),
        ("models/x", "there is no folder models/x; give a model's folder, or a hub id such as Q"),
        ("./Models", r"there is no folder ./Models; did you mean models\?"),
        (
            "models/a.gguf",
            "models/a.gguf is a file; give the folder of a model, which holds config",
        ),
        ("a.gguf", "a.gguf is a file"),
    ],
)
def test_a_path_with_a_mistake_is_not_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, message: str
) -> None:
    (tmp_path / "models" / "Qwen3-0.6B").mkdir(parents=True)
    (tmp_path / "models" / "a.gguf").touch()
    (tmp_path / "a.gguf").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        resolve_model(model, ())


def test_a_hub_id_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def snapshot_download(model: str, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((model, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert resolve_model("org/name", ("*.json",)) == tmp_path
    assert resolve_model("org/name", ("*.json",), "v2") == tmp_path
    assert calls == [("org/name", None, ["*.json"]), ("org/name", "v2", ["*.json"])]


@pytest.mark.parametrize("is_embedded", [True, False])
def test_a_revision_is_of_the_hub(tmp_path: Path, is_embedded: bool) -> None:
    with pytest.raises(ConfigError, match="revision v2 is of a model on the hub; .* is a folder"):
        resolve_model(None if is_embedded else str(tmp_path), (), "v2")


def test_a_hub_that_does_not_answer_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(model: str, **options: object) -> str:
        raise OSError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(ConfigError, match="org/name .*: no route$"):
        resolve_model("org/name", ())


@pytest.mark.parametrize(
    ("text", "message"), [(None, "has no"), ("{", "cannot be read"), ("[]", "JSON object")]
)
def test_a_broken_configuration_is_said(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_json(path)


def test_fingerprints_see_changes(tmp_path: Path) -> None:
    assert tokenizer_fingerprint(tmp_path) == ""
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    weights = bytearray(300_000)
    seen = {tokenizer_fingerprint(tmp_path)}
    for index in (None, 10, 150_000, 299_999):
        if index is not None:
            weights[index] = 1
        (tmp_path / "model.safetensors").write_bytes(weights)
        seen.add(model_fingerprint(tmp_path))
    (tmp_path / "config.json").write_text('{"a": 1}')
    seen.add(model_fingerprint(tmp_path))
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("file", "config", "template"),
    [
        ("file é", {"chat_template": "config"}, "file é"),
        ("a\r\nb", None, "a\nb"),
        (None, {"chat_template": "config"}, "config"),
        (
            None,
            {
                "chat_template": [
                    {"name": "tool_use", "template": "tools"},
                    {"name": "default", "template": "plain"},
                ]
            },
            "plain",
        ),
        (None, {"chat_template": [{"name": "rag", "template": "rag"}]}, ""),
        (None, {"chat_template": None}, ""),
        (None, {}, ""),
        (None, None, ""),
    ],
)
def test_a_chat_template_is_found_where_it_is(
    tmp_path: Path, file: str | None, config: dict[str, object] | None, template: str
) -> None:
    if file is not None:
        (tmp_path / "chat_template.jinja").write_bytes(file.encode())
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert read_chat_template(tmp_path) == template
    expected = hashlib.sha256(template.encode()).hexdigest() if template else ""
    assert chat_template_fingerprint(tmp_path) == expected


def test_a_chat_template_that_is_no_text_is_said(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": 1}')
    with pytest.raises(ConfigError, match="chat_template must be a text"):
        read_chat_template(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="chat_template.jinja cannot be read"):
        read_chat_template(tmp_path)
