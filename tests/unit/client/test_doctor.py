"""`folovllm doctor` says what is missing, what computes, and where caches lie, and clears these."""

import io
import json
import shutil
import sys
import warnings
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result
from huggingface_hub import constants
from rich.console import Console

from engine_service.kernels.cpu import build as cpu_build
from engine_service.kernels.cpu import processor as cpu_processor
from engine_service.kernels.gpu import support as gpu_support
from folovllm.installation import parts
from folovllm.installation.nvidia import DriverError, Gpu
from folovllm_client.cli.commands import commands
from folovllm_client.cli.doctor import caches, gpu, packages, processor, torch_build
from folovllm_client.cli.doctor.findings import Finding, Report
from folovllm_client.cli.doctor.torch_build import TorchBuild

H200 = Gpu("NVIDIA H200", 143771, "580.1")
FOR_CPUS = TorchBuild("2.13.0+cpu", "")
FOR_CUDA = TorchBuild("2.13.0+cu130", "13.0")


def doctor(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(commands, ["doctor", *arguments], input=stdin)


class Host:
    """A host with everything installed, a processor with kernels and no GPU, until changed."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self._patch = folder, patch
        self.sources = folder / "sources"
        self.set_gpus()
        self.set_torch(FOR_CPUS)
        patch.setattr(cpu_processor, "missing_instructions", lambda: ())
        library = self.fill("sources/folovllm_cpu_1.so", 3_000_000)
        patch.setattr(cpu_build, "SOURCES", self.sources)
        patch.setattr(cpu_build, "_library_paths", lambda: (library, folder / "own/kernels/x.so"))
        patch.setattr(caches, "cache_folder", lambda: folder / "own")
        patch.setenv("TRITON_CACHE_DIR", str(folder / "triton"))
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))

    def set_gpus(self, *gpus: Gpu, error: str = "") -> None:
        def named() -> Iterable[Gpu]:
            if error:
                raise DriverError(error)
            return gpus

        self._patch.setattr(gpu, "nvidia_gpus", named)

    def set_torch(self, build: TorchBuild | None) -> None:
        self._patch.setattr(gpu, "torch_build", lambda: build)

    def without(self, *modules: str) -> None:
        self._patch.setattr(parts, "_is_installed", lambda module: module not in modules)

    def fill(self, path: str, size: int) -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(size))
        return file


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def finding(result: Result, name: str) -> dict[str, str]:
    """The first finding of a name, of a report as JSON."""
    report = json.loads(result.stdout)
    sections = (report[title] for title in ("packages", "processor", "gpu", "caches"))
    return next(each for section in sections for each in section if each["name"] == name)


def test_where_everything_works(host: Host) -> None:
    result = doctor("all")
    assert result.exit_code == 0
    assert "models are computed by the CPU kernels\n" in result.stderr
    assert "ok      engine        complete\n" in result.stdout
    assert "error" not in result.stdout and "warning" not in result.stdout
    report = json.loads(doctor("--json").stdout)
    assert report["ok"] and report["computes"] == "the CPU kernels"
    assert report["versions"]["grpcio"] == "1.82.3"


def test_a_client_alone_is_complete(host: Host) -> None:
    host.without("structlog", "grpc_reflection", "llguidance")
    result = doctor()
    assert result.exit_code == 0 and result.stderr == "\nworks as a client of a server\n"
    assert "info    engine     not installed\n" in result.stdout
    assert "[engine]" in result.stdout and "CPU kernels" not in result.stdout


def test_a_part_that_is_asked_for_has_to_be_complete(host: Host) -> None:
    host.without("structlog", "grpc_reflection", "llguidance")
    result = doctor("all")
    line = result.stderr.strip()
    assert result.exit_code == 1 and "\n" not in line
    assert line.startswith("error: tokenizer lacks grpcio-reflection and structlog; type: ")
    assert "[all]" in line
    assert not json.loads(doctor("all", "--json").stdout)["ok"]


def test_a_part_that_was_begun_has_to_be_complete(host: Host) -> None:
    host.without("llguidance")
    result = doctor()
    assert result.exit_code == 1
    assert result.stderr.startswith("error: engine lacks llguidance; type: ")
    assert "[engine]" in result.stderr


@pytest.mark.parametrize(
    ("package", "installed", "said"),
    [
        ("grpcio", "1.85.1", "error: grpcio is 1.85.1, but has to be ==1.82.3; type: "),
        ("torch", "2.5.0+cpu", "error: torch is 2.5.0+cpu, but has to be >=2.11; type: "),
        ("transformers", "6.0.0", "error: transformers is 6.0.0, but has to be <6,>=5.0; type: "),
    ],
)
def test_a_version_that_does_not_fit_is_named(
    host: Host, monkeypatch: pytest.MonkeyPatch, package: str, installed: str, said: str
) -> None:
    monkeypatch.setattr(
        packages, "version", lambda name: installed if name == package else version(name)
    )
    result = doctor()
    assert result.exit_code == 1 and result.stderr.startswith(said)


def test_ranges_come_from_metadata_where_there_is_no_clone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["click>=99", "folovllm[server]; extra == 'engine'", "torch==1.0; extra == 'server'"]
    monkeypatch.setattr(packages, "is_clone", lambda: False)
    monkeypatch.setattr(packages, "distribution", lambda _: SimpleNamespace(requires=said))
    found = {each.name: each.text for each in packages.check_packages("client")}
    assert found["click"].endswith("has to be >=99") and found["torch"].endswith("has to be ==1.0")


def test_without_a_compiler_the_kernels_are_missed(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    (host.sources / "folovllm_cpu_1.so").unlink()
    assert finding(doctor("--json"), "CPU kernels")["command"].endswith("kernels.cpu.build")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    result = doctor()
    assert result.exit_code == 0 and "install g++" in result.stdout
    assert "computed by torch, on the CPU; what could be better is marked" in result.stderr


def test_other_processors_lack_instructions(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_processor, "missing_instructions", lambda: ("avx512_bf16",))
    result = doctor()
    assert "lacks avx512_bf16" in result.stdout
    assert "computed by torch, on the CPU\n" in result.stderr


def test_the_processor_is_named(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processor, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert finding(doctor("--json"), "processor")["text"].endswith(", OMP_NUM_THREADS=1")
    (tmp_path / "cpuinfo").write_text("processor: 0\nmodel name\t: A Chip\n")
    assert finding(doctor("--json"), "processor")["text"].startswith("A Chip (")


def test_a_torch_for_cuda_without_a_gpu(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.set_torch(FOR_CUDA)
    monkeypatch.setattr(gpu, "cuda_packages", lambda: {"triton": 10**9, "nvidia-x": 3 * 10**9})
    monkeypatch.setattr(gpu, "pip_install", lambda *_, cpu_torch: f"install {_} {cpu_torch}")
    monkeypatch.setattr(gpu, "pip_uninstall", lambda *_: f"uninstall {_}")
    result = doctor("--json")
    found = finding(result, "torch")
    assert (found["state"], result.exit_code) == ("warning", 0)
    assert "4.0 GB are of no use" in found["text"]
    removed, installed = ("torch", "nvidia-x", "triton"), ("torch==2.13.0+cpu",)
    assert found["command"] == f"uninstall {removed} && install {installed} True"


def test_a_torch_for_cpus_beside_a_gpu(host: Host) -> None:
    host.set_gpus(H200)
    result = doctor("--json")
    assert finding(result, "GPU")["text"] == "NVIDIA H200, 140 GiB, driver 580.1"
    found = finding(result, "torch")
    assert found["state"] == "warning" and "the GPU is not used" in found["text"]
    assert found["command"].endswith("install torch==2.13.0")


def cuda_torch(patch: pytest.MonkeyPatch, *, usable: bool) -> None:
    def is_available() -> bool:
        if not usable:
            warnings.warn("The NVIDIA driver is too old.\nUpdate it.", stacklevel=1)
        return usable

    cuda = SimpleNamespace(is_available=is_available)
    patch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, __spec__=object()))


def test_gpu_kernels_compute_where_nothing_hinders_them(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.set_gpus(H200)
    host.set_torch(FOR_CUDA)
    cuda_torch(monkeypatch, usable=True)
    monkeypatch.setattr(gpu_support, "obstacle", lambda: None)
    assert "computed by the GPU kernels\n" in doctor().stderr
    monkeypatch.setattr(gpu_support, "obstacle", lambda: "there is no C compiler")
    result = doctor()
    assert "cannot be used: there is no C compiler" in result.stdout and result.exit_code == 0
    assert "computed by torch, on the GPU; " in result.stderr


def test_a_gpu_that_torch_cannot_use_is_an_error(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.set_gpus(H200)
    host.set_torch(FOR_CUDA)
    cuda_torch(monkeypatch, usable=False)
    result = doctor()
    said = "error: torch 2.13.0+cu130 cannot use the GPU: The NVIDIA driver is too old.\n"
    assert (result.exit_code, result.stderr) == (1, said)


def test_a_driver_that_fails_is_told(host: Host) -> None:
    host.set_gpus(error="nvidia-smi fails: no driver")
    host.set_torch(FOR_CUDA)
    result = doctor("--json")
    assert finding(result, "GPU")["text"] == "not usable: nvidia-smi fails: no driver"
    assert finding(result, "torch")["state"] == "info" and result.exit_code == 0


def test_torchs_build_is_read_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(torch_build, "find_spec", lambda _: spec)
    assert torch_build.torch_build() is None  # half uninstalled
    (tmp_path / "version.py").write_text("__version__ = '2.13.0+cu130'\ncuda = '13.0'\n")
    build = torch_build.torch_build()
    assert build == FOR_CUDA and build.public_version == "2.13.0"
    monkeypatch.setattr(torch_build, "find_spec", lambda _: None)
    assert torch_build.torch_build() is None


def test_packages_for_gpus_are_those_that_torch_brought(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(name: str) -> object:
        needed = {
            "torch": ["numpy", "nvidia-cublas==1; sys_platform == 'linux'", "triton"],
            "nvidia-cublas": ["nvidia-nvtx", "nvidia-gone"],
            "nvidia-nvtx": [],
            "triton": None,
        }
        if name not in needed:
            raise PackageNotFoundError(name)
        files = [SimpleNamespace(size=5), SimpleNamespace(size=None)]
        return SimpleNamespace(requires=needed[name], files=files)

    monkeypatch.setattr(torch_build, "distribution", named)
    assert torch_build.cuda_packages() == {"nvidia-cublas": 5, "triton": 5, "nvidia-nvtx": 5}


def fill_caches(host: Host) -> list[Path]:
    return [
        host.sources / "folovllm_cpu_1.so",
        host.fill("own/kernels/folovllm_cpu_2.so", 1_000_000),
        host.fill("own/gpu/H200/table.json", 500_000),
        host.fill(f"triton/{'A' * 52}/kernel.cubin", 2_000_000),
    ]


def test_caches_are_measured(host: Host) -> None:
    fill_caches(host)
    model = host.fill("hub/models--a--b/blobs/1", 7_000_000)
    (host.folder / "hub" / "link").symlink_to(model)
    found = {each.text for each in caches.check_caches()}
    assert found == {
        f"1.0 MB in {host.folder / 'own' / 'kernels'}",
        f"500 kB in {host.folder / 'own' / 'gpu'}",
        f"3.0 MB in {host.sources}",
        f"2.0 MB in {host.folder / 'triton'}",
        f"7.0 MB in {host.folder / 'hub'}",
    }


def test_clearing_takes_caches_and_leaves_models_and_sources(host: Host) -> None:
    files = fill_caches(host)
    others = ("hub/models--a--b/blobs/1", "sources/linear.cpp", "triton/thesis/chapter.tex")
    kept = [host.fill(name, 7) for name in others]
    result = doctor("--clear-caches", "--yes")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (0, "deleted 6.5 MB")
    assert [path for path in files if path.exists()] == []
    assert all(path.exists() for path in kept)
    assert doctor("--clear-caches").stderr == "the caches are empty\n"


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_clearing_asks_first(host: Host, answer: str) -> None:
    files = fill_caches(host)
    result = doctor("--clear-caches", stdin=answer)
    assert result.exit_code == 1 and all(path.exists() for path in files)
    assert "type --clear-caches --yes" in result.stderr
    assert str(host.folder / "triton") in result.stderr
    assert doctor("--clear-caches", stdin="y\n").exit_code == 0
    assert not any(path.exists() for path in files)


def test_what_cannot_be_deleted_is_named(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    fill_caches(host)
    monkeypatch.setattr(shutil, "rmtree", refuse)
    result = doctor("--clear-caches", "--yes")
    said = f"[Errno 13] Permission denied: '{host.folder}/own/gpu'"
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        1,
        f"error: not everything was deleted: {said}",
    )


@pytest.mark.parametrize("flags", [["--yes"], ["--json", "--clear-caches"]])
def test_options_that_do_not_go_together(flags: list[str]) -> None:
    result = doctor(*flags)
    assert result.exit_code == 2 and "leave" in result.stderr


def test_a_terminal_shows_signs() -> None:
    report = Report(
        {"GPU": [Finding("torch", "warning", "is\x1b[2J large", "pip uninstall torch")]}
    )
    shown = io.StringIO()
    report.show(Console(file=shown, force_terminal=True, markup=False))
    assert "  ! " in shown.getvalue() and "warning" not in shown.getvalue()
    assert "\x1b[2J" not in shown.getvalue()
    plain = io.StringIO()
    report.show(Console(file=plain, markup=False))
    assert plain.getvalue().endswith("large\n                 pip uninstall torch\n")
