"""The kernels are compiled once, whole or not at all; without a compiler plain torch computes."""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine_service.kernels.cpu import build as cpu_build
from engine_service.kernels.cpu import library as cpu_library
from engine_service.kernels.cpu import processor as cpu_processor
from engine_service.kernels.cpu import structures
from engine_service.kernels.cpu.build import KernelBuildError, build_library, find_library
from engine_service.models.causal_model import CausalModel
from engine_service.models.cpu_decoder import CpuDecoder
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.loader import load_model
from engine_service.models.model_options import ModelOptions
from engine_service.models.torch_decoder import TorchDecoder
from folovllm.installation.trusted_files import distrust
from support.builders.cpu_kernels import library
from support.builders.tiny_models import make_checkpoint

CPU = torch.device("cpu")


_WRITES = 'while [ "$1" != -o ]; do shift; done; echo compiled > "$2"'


class Workshop:
    """Sources, paths of the library and a compiler, all in a temporary folder."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.sources, self.cache = folder / "sources" / "cpu", folder / "cache"
        self.log = folder / "calls"
        self.sources.mkdir(parents=True)
        (self.sources / "linear.cpp").write_text("int linear;")
        self._compiler = folder / "compiler"
        self._patch = patch
        patch.setattr(cpu_build, "SOURCES", self.sources)
        patch.setenv("XDG_CACHE_HOME", str(self.cache))
        patch.setattr(tempfile, "tempdir", str(folder / "temporary"))
        self.compiler_does(_WRITES)

    def compiler_does(self, script: str) -> None:
        """A shell script that takes a compiler's arguments is the compiler from now on."""
        self._compiler.write_text(f'#!/bin/sh\necho "$@" >> {self.log}\n{script}\n')
        self._compiler.chmod(0o755)
        self._patch.setenv("CXX", str(self._compiler))

    @property
    def calls(self) -> list[str]:
        """The arguments of each call of the compiler."""
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return Workshop(tmp_path, monkeypatch)


def test_the_real_library_has_all_functions() -> None:
    functions = ctypes.CDLL(str(library()))
    assert all(hasattr(functions, name) for name in cpu_library._FUNCTIONS)


def test_it_lies_beside_its_sources_and_is_found_again(workshop: Workshop) -> None:
    assert find_library() is None
    built = build_library()
    assert built.parent == workshop.sources and built.read_text() == "compiled\n"
    assert find_library() == built
    assert cpu_build.main() == 0 and len(workshop.calls) == 1
    assert str(workshop.sources / "linear.cpp") in workshop.calls[0]
    # It was compiled elsewhere, and put there when it was whole.
    assert str(built) not in workshop.calls[0].split()
    assert set(workshop.sources.iterdir()) == {workshop.sources / "linear.cpp", built}


@pytest.mark.parametrize("name", ["linear.cpp", "vectors.h", "another.cpp"])
def test_other_sources_need_another_library(workshop: Workshop, name: str) -> None:
    first = build_library()
    (workshop.sources / name).write_text("int changed;")
    assert find_library() is None
    assert build_library() != first


def test_where_the_sources_cannot_be_written_it_lies_in_the_cache(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder within a file: even root cannot make it.
    name = "kernels.so"
    path = workshop.cache / "folovllm" / "kernels" / name
    monkeypatch.setattr(
        cpu_build, "_library_paths", lambda: (workshop.sources / "linear.cpp" / "in" / name, path)
    )
    assert build_library() == path == find_library()


def test_the_second_path_is_in_the_cache_folder(workshop: Workshop) -> None:
    first, second, third = cpu_build._library_paths()
    assert first.parent == workshop.sources
    assert second == workshop.cache / "folovllm" / "kernels" / first.name
    assert third.parent.parent == Path(tempfile.gettempdir())


class Tampering:
    """What makes a file one that others may have written, by name."""

    @staticmethod
    def file_of_others(path: Path) -> None:
        os.chown(path, 12345, 12345)

    @staticmethod
    def folder_of_others(path: Path) -> None:
        os.chown(path.parent, 12345, 12345)

    @staticmethod
    def file_for_the_group(path: Path) -> None:
        path.chmod(0o664)

    @staticmethod
    def file_for_all(path: Path) -> None:
        path.chmod(0o646)

    @staticmethod
    def folder_for_all(path: Path) -> None:
        path.parent.chmod(0o777)

    @staticmethod
    def folder_above_for_all(path: Path) -> None:
        path.parent.parent.chmod(0o777)


TAMPERINGS = [name for name in vars(Tampering) if not name.startswith("_")]


@pytest.mark.parametrize("name", TAMPERINGS)
def test_what_others_may_have_written_is_not_loaded_but_made_anew(
    name: str, workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    if "of_others" in name and os.geteuid() != 0:
        pytest.skip("only root can give files away")
    path = build_library()
    assert find_library() == path
    getattr(Tampering, name)(path)
    assert find_library() is None
    (line,) = caplog.messages
    assert line.startswith(f"the CPU kernels in {path} are not used: ")
    again = build_library()
    assert distrust(again) is None and find_library() == again
    # Elsewhere, unless the file alone was wrong.
    assert (again == path) == ("folder" not in name)


def test_a_loose_umask_spoils_nothing(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cpu_build, "_library_paths", lambda: (workshop.cache / "folovllm" / "kernels" / "x.so",)
    )
    before = os.umask(0)
    try:
        assert build_library() == find_library()
    finally:
        os.umask(before)


def test_no_path_can_be_written(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    inside_a_file = workshop.sources / "linear.cpp" / "in"
    monkeypatch.setattr(
        cpu_build, "_library_paths", lambda: (inside_a_file / "1", inside_a_file / "2")
    )
    with pytest.raises(KernelBuildError, match=r"none of .*linear\.cpp/in, .* is writable"):
        build_library()


def no_compiler(workshop: Workshop, patch: pytest.MonkeyPatch) -> str:
    patch.delenv("CXX")
    patch.setenv("PATH", str(workshop.cache))
    return r"^there is no C\+\+ compiler; install g\+\+"


def failing_compiler(workshop: Workshop, patch: pytest.MonkeyPatch) -> str:
    complains = "echo linear.cpp:1: no such thing >&2; echo more >&2; exit 1"
    workshop.compiler_does(f"{_WRITES}; {complains}")
    return "compiler fails: linear.cpp:1: no such thing$"


def silent_compiler(workshop: Workshop, patch: pytest.MonkeyPatch) -> str:
    workshop.compiler_does("exit 3")
    return "compiler fails: 3$"


def slow_compiler(workshop: Workshop, patch: pytest.MonkeyPatch) -> str:
    workshop.compiler_does("while :; do :; done")
    patch.setattr(cpu_build, "_TIMEOUT_S", 0.05)
    return "compiler took over 0.05 s$"


def broken_compiler(workshop: Workshop, patch: pytest.MonkeyPatch) -> str:
    compiler = workshop.cache.parent / "broken"
    compiler.write_bytes(b"\x7fELF no program")
    compiler.chmod(0o755)
    patch.setenv("CXX", str(compiler))
    return "broken cannot be run: .*Exec format error"


Fail = Callable[[Workshop, pytest.MonkeyPatch], str]
FAILURES: list[Fail] = [
    no_compiler,
    failing_compiler,
    silent_compiler,
    slow_compiler,
    broken_compiler,
]


@pytest.mark.parametrize("fail", FAILURES)
def test_failures_are_one_line_and_leave_nothing(
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fail: Fail,
) -> None:
    message = fail(workshop, monkeypatch)
    with pytest.raises(KernelBuildError, match=message) as caught:
        build_library()
    assert "\n" not in str(caught.value)
    assert cpu_build.main() == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert {path.name for path in workshop.sources.iterdir()} == {"linear.cpp"}
    assert find_library() is None


def swapped(structure: type[ctypes.Structure], *names: str) -> type[ctypes.Structure]:
    """The same structure with two of its fields swapped."""
    first, second = names
    other = {first: second, second: first}
    types = {entry[0]: entry[1] for entry in structure._fields_}
    fields = [(other.get(name, name), types[other.get(name, name)]) for name in types]
    return type(structure.__name__, (ctypes.Structure,), {"_fields_": fields})


@pytest.mark.parametrize(
    ("structure", "names"),
    [(structures.LinearCall, ("rows", "residual")), (structures.AttentionStep, ("slots", "sin"))],
)
def test_a_structure_with_swapped_fields_compiles_with_no_kernels(
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    structure: type[ctypes.Structure],
    names: tuple[str, str],
) -> None:
    if not any(map(shutil.which, cpu_build.COMPILERS)):
        pytest.skip("there is no compiler")
    monkeypatch.delenv("CXX")
    (workshop.sources / "linear.cpp").unlink()
    for header in Path(structures.__file__).parent.glob("*.h"):
        shutil.copy(header, workshop.sources)
    right = cpu_build.build_library()
    monkeypatch.setattr(structures, structure.__name__, swapped(structure, *names))
    assert find_library() is None
    with pytest.raises(KernelBuildError, match=rf"{structure.__name__}\.({'|'.join(names)})$"):
        build_library()
    assert list(workshop.sources.glob("*.so")) == [right]


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """find_or_build looks anew, on a processor that has what it takes."""
    monkeypatch.setattr(cpu_library, "find_or_build", cpu_library.find_or_build.__wrapped__)
    monkeypatch.setattr(cpu_library, "missing_instructions", lambda: ())


def load(
    folder: Path, dtype: torch.dtype = torch.bfloat16, *, block_size: int = 16, exact: bool = False
) -> CausalModel:
    config = DecoderConfig.from_folder(folder)
    return load_model(
        folder, config, ModelOptions(dtype, CPU, deterministic=exact, block_size=block_size)
    )


@pytest.mark.usefixtures("forgetful")
def test_without_a_compiler_plain_torch_computes(
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    folder = make_checkpoint("qwen3_wide_heads", tmp_path / "model", dtype=torch.bfloat16)
    no_compiler(workshop, monkeypatch)
    assert isinstance(load(folder), TorchDecoder)


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("lacking", cpu_processor.INSTRUCTIONS)
def test_another_processor_compiles_nothing(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    monkeypatch.setattr(cpu_library, "missing_instructions", lambda: (lacking,))
    assert cpu_library.find_or_build() is None
    assert workshop.calls == []


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512_vnni avx512_bf16 sse\n", ()),
        ("flags\t\t: fpu avx512_vnni\n", ("avx512_bf16",)),
        ("flags\t\t: fpu avx_vnni\n", cpu_processor.INSTRUCTIONS),
        ("Features\t: fp asimd bf16\n", cpu_processor.INSTRUCTIONS),
        (None, cpu_processor.INSTRUCTIONS),
    ],
)
def test_the_system_lists_the_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, missing: tuple[str, ...]
) -> None:
    listing = tmp_path / "cpuinfo"
    monkeypatch.setattr(cpu_processor, "CPU_INFO", listing)
    if text is not None:
        listing.write_text(text)
    assert cpu_processor.missing_instructions() == missing


def test_our_reading_is_torchs() -> None:
    has = torch.cpu._is_avx512_bf16_supported() and torch.cpu._is_vnni_supported()
    assert cpu_library.processor_has_kernels() is has


def test_kernels_compute_what_fits_them(tmp_path: Path) -> None:
    library()
    fits, small_heads = (
        make_checkpoint(name, tmp_path / name, dtype=torch.bfloat16)
        for name in ("qwen3_wide_heads", "qwen3_grouped")
    )
    assert isinstance(load(fits), CpuDecoder)
    assert isinstance(load(fits, block_size=48), CpuDecoder)
    assert isinstance(load(fits, block_size=8), TorchDecoder)
    assert isinstance(load(fits, torch.float32), TorchDecoder)
    assert isinstance(load(fits, exact=True), CpuDecoder)
    assert isinstance(load(small_heads), TorchDecoder)
