"""Where packages are missing, one line says which, and the command that installs them here."""

import importlib
import json
import runpy
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

import folovllm
from folovllm.installation import lazy_names, nvidia, parts, pip_command
from folovllm.installation.parts import PARTS, MissingPackagesError, missing_line
from folovllm.installation.pip_command import install_command, pip_install, pip_uninstall

ROOT = Path(__file__).parents[3]
INDEX = f"--extra-index-url {pip_command.TORCH_INDEX}"
DISPENSABLE = {"uvloop"}


def required(extra: str) -> set[str]:
    """The packages of an extra and of the base, by pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: set[str] = set()
    for text in (*project["dependencies"], *project["optional-dependencies"][extra]):
        requirement = Requirement(text)
        if requirement.name == "folovllm":
            for each in requirement.extras:
                found |= required(each)
        else:
            found.add(requirement.name)
    return found


@pytest.mark.parametrize("part", PARTS)
def test_the_parts_are_the_extras(part: str) -> None:
    assert {*PARTS[part]} == required(part) - DISPENSABLE
    assert parts.missing_packages(part) == []
    assert missing_line(part) is None


class Machine:
    """A machine with a GPU or not, and where FolovLLM came from."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder, self._patch = folder.resolve(), patch
        self.clone = self._folder / "clone"
        self.clone.mkdir()
        patch.setattr(sys, "platform", "linux")
        patch.setattr(pip_command, "CLONE", self.clone)
        patch.setattr(pip_command, "has_nvidia_gpu", lambda: False)
        patch.setattr(pip_command, "_pip", lambda action: ["pip", action])
        patch.chdir(self._folder)

    def is_clone(self) -> None:
        (self.clone / "pyproject.toml").touch()

    def came_from(self, origin: object) -> None:
        """`origin` is what pip wrote down about it."""
        text = origin and json.dumps(origin)
        found = SimpleNamespace(read_text=lambda name: {"direct_url.json": text}[name])
        self._patch.setattr(pip_command, "distribution", lambda name: {"folovllm": found}[name])


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_a_clone_is_named_by_its_path_from_here(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    machine.is_clone()
    assert install_command("all") == f"pip install -e './clone[all]' {INDEX}"
    monkeypatch.chdir(machine.clone)
    assert install_command("engine") == f"pip install -e '.[engine]' {INDEX}"
    assert install_command("tokenizer") == "pip install -e '.[tokenizer]'"
    assert install_command("client") == "pip install -e ."
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert install_command("client") == f"pip install -e {machine.clone}"


def test_an_index_is_asked_by_name(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.came_from(None)
    assert install_command("all") == f"pip install 'folovllm[all]' {INDEX}"

    def not_there(name: str) -> object:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(pip_command, "distribution", not_there)
    assert install_command("client") == "pip install folovllm"


def test_what_was_installed_from_a_path_is_installed_from_there_again(machine: Machine) -> None:
    wheel = machine.clone / "folovllm 1.whl"
    machine.came_from({"url": wheel.as_uri(), "archive_info": {}})
    assert install_command("tokenizer") == "pip install 'folovllm[tokenizer]'"  # it is gone
    wheel.touch()
    assert install_command("tokenizer") == "pip install './clone/folovllm 1.whl[tokenizer]'"


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        (
            {"url": "https://h/r.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "git+https://h/r.git@abc",
        ),
        ({"url": "https://h/f.whl", "archive_info": {}}, "https://h/f.whl"),
    ],
)
def test_what_came_from_afar_comes_from_there_again(
    machine: Machine, origin: object, source: str
) -> None:
    machine.came_from(origin)
    assert install_command("tokenizer") == f"pip install 'folovllm[tokenizer] @ {source}'"


@pytest.mark.parametrize(("system", "gpu"), [("linux", True), ("darwin", False)])
def test_other_machines_have_the_torch_of_the_index(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, system: str, gpu: bool
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(pip_command, "has_nvidia_gpu", lambda: gpu)
    machine.came_from(None)
    assert install_command("all") == "pip install 'folovllm[all]'"


def test_the_pip_of_this_python_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path.resolve())
    monkeypatch.setattr(sys, "executable", str(tmp_path.resolve() / "bin" / "python"))
    monkeypatch.setattr(pip_command, "find_spec", lambda name: {"pip": object()}[name])
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert pip_install("a>1") == "bin/python -m pip install 'a>1'"
    monkeypatch.setattr(shutil, "which", lambda name: str(tmp_path / "bin" / name))
    assert pip_uninstall("a", "b") == "pip uninstall --yes a b"


def test_without_pip_it_is_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pip_command, "find_spec", lambda _: None)
    monkeypatch.setattr(pip_command, "typed_program", lambda _: "bin/python")
    installed = pip_install("torch", cpu_torch=True)
    assert installed == "uv pip install --python bin/python torch --torch-backend=cpu"
    assert pip_uninstall("a") == "uv pip uninstall --python bin/python a"


def test_many_missing_packages_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_is_installed", lambda module: "o" not in module)
    line = missing_line("tokenizer")
    assert line is not None
    assert line.startswith("the tokenizer service needs protobuf, googleapis-common-protos, ")
    assert " more; install with: " in line and line.endswith("[tokenizer]'")


@pytest.mark.parametrize(
    ("module", "part"), [("grpc", "client"), ("google.rpc", "client"), ("torch", "all")]
)
def test_a_public_name_without_its_packages_names_the_command(
    monkeypatch: pytest.MonkeyPatch, module: str, part: str
) -> None:
    def fail(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(lazy_names, "import_module", fail)
    monkeypatch.setattr(parts, "_is_installed", lambda each: each != module)
    with pytest.raises(MissingPackagesError, match="install with: ") as caught:
        _ = folovllm.Client
    assert str(caught.value) == missing_line(part) and isinstance(caught.value, ImportError)


def test_another_missing_module_is_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> object:
        return importlib.import_module("no_such_module_of_anyone")

    monkeypatch.setattr(lazy_names, "import_module", fail)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_of_anyone"):
        _ = folovllm.Client


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("folovllm", "FolovLLM needs "),
        ("folovllm_client", "FolovLLM needs "),
        ("engine_service", "the engine service needs "),
        ("tokenizer_service", "the tokenizer service needs "),
    ],
)
def test_a_command_without_its_packages_ends_with_one_line(module: str, said: str) -> None:
    """`-S` leaves out all that is installed."""
    path = f"{ROOT}:{ROOT / 'client'}"
    command = [sys.executable, "-S", "-m", module, "--help"]
    done = subprocess.run(command, env={"PYTHONPATH": path}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"error: {said}") and "pip install" in done.stderr


def test_the_package_is_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["folovllm", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("folovllm", run_name="__main__")
    assert (end.value.code, capsys.readouterr().out) == (0, f"folovllm {folovllm.__version__}\n")


def driver(folder: Path, patch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    patch.setenv("PATH", str(folder))


def test_gpus_are_those_that_the_driver_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia.nvidia_gpus() == [] and not nvidia.has_nvidia_gpu()
    driver(tmp_path, monkeypatch, 'echo "NVIDIA H200, 143771, 580.1"; echo "GRID, [N/A], 580.1"')
    gpus = [nvidia.Gpu("NVIDIA H200", 143771, "580.1"), nvidia.Gpu("GRID", 0, "580.1")]
    assert nvidia.nvidia_gpus() == gpus and nvidia.has_nvidia_gpu()


def test_a_driver_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, "echo 'cannot reach the driver'; exit 9")
    with pytest.raises(nvidia.DriverError, match="nvidia-smi fails: cannot reach the driver"):
        nvidia.nvidia_gpus()
    assert not nvidia.has_nvidia_gpu()
