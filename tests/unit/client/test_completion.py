"""A shell completes commands, options, their values, and the models that were fetched."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from huggingface_hub import constants

from folovllm_client.cli.commands import commands


def completions(*words: str) -> list[str]:
    """What the last word may become."""
    shell = ShellComplete(commands, {}, "folovllm", "_FOLOVLLM_COMPLETE")
    *before, last = words
    return [item.value for item in shell.get_completions([*before], last)]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "models--Qwen--Qwen3-0.6B",
        "models--Qwen--a--b",
        "models--gpt2",
        "datasets--x--y",
    ):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))


def test_commands_options_and_values() -> None:
    assert completions("compl") == ["completion"]
    assert completions("serve", "--dt") == ["--dtype"]
    assert completions("serve", "--dtype", "b") == ["bfloat16"]
    assert completions("completion", "") == ["bash", "zsh", "fish"]
    assert "engine" in completions("doctor", "")


@pytest.mark.usefixtures("models")
def test_models_that_were_fetched() -> None:
    assert completions("serve", "--model", "Q") == ["Qwen/Qwen3-0.6B", "Qwen/a--b"]
    assert completions("serve", "--model", "g") == ["gpt2"]


@pytest.mark.usefixtures("models")
def test_other_models_are_folders() -> None:
    shell = ShellComplete(commands, {}, "folovllm", "_FOLOVLLM_COMPLETE")
    (item,) = shell.get_completions(["serve", "--model"], "./x")
    assert (item.value, item.type) == ("./x", "dir")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str) -> None:
    result = CliRunner().invoke(commands, ["completion", shell])
    assert result.exit_code == 0
    assert f"_FOLOVLLM_COMPLETE={shell}_complete" in result.stdout
    assert shell in CliRunner().invoke(commands, ["completion", "--help"]).stdout


def test_another_shell_is_refused_with_the_choices() -> None:
    result = CliRunner().invoke(commands, ["completion", "tcsh"])
    assert result.exit_code == 2 and "must be one of bash, zsh, fish" in result.stderr


def test_bash_completes(tmp_path: Path) -> None:
    program = tmp_path / "folovllm"
    main = "from folovllm_client.__main__ import main; main()"
    program.write_text(f"#!{sys.executable}\n{main}\n")
    program.chmod(0o755)
    script = CliRunner().invoke(commands, ["completion", "bash"]).stdout
    typed = (
        "COMP_WORDS=(folovllm serve --dtype f); COMP_CWORD=3; "
        f'_folovllm_completion {program}; echo "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script + typed], capture_output=True, text=True, env=os.environ
    )
    assert (done.stdout, done.stderr) == ("float32 float16\n", "")
