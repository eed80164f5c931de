"""Generates the checked-in stubs under folovllm/v1 from protos/, with types.

    .venv-tools/bin/python -m tools.generate_protos [OUTPUT_FOLDER]

Runs with the packages of requirements/tools.txt, which says why in these versions. The output
folder defaults to the repository root, so that the path of a .proto file equals the import path of
its module and no generated line needs editing.

The stubs do not import buf/validate/validate.proto, though the contract does: other packages have
that file in the default descriptor pool, in other versions, and a pool takes only one. The options
stay in the stubs' descriptors. What they mean is in validate.binpb, for a pool of its own.
"""

import sys
import tempfile
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
_PROTOS = ROOT / "protos"
_VALIDATE = "buf/validate/validate.proto"
_OURS = "folovllm/"
_PLUGINS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")


def main(output: Path) -> int:
    """Writes the stubs below `output` and returns protoc's exit status."""
    protos = sorted(
        path.relative_to(_PROTOS).as_posix() for path in (_PROTOS / _OURS).rglob("*.proto")
    )
    with tempfile.TemporaryDirectory() as folder:
        read = Path(folder) / "contract.binpb"
        include = [f"--proto_path={path}" for path in (_PROTOS, files("grpc_tools") / "_proto")]
        described = [f"--descriptor_set_out={read}", "--include_imports", "--include_source_info"]
        if status := _protoc(*include, *described, *protos):
            return status
        contract = FileDescriptorSet.FromString(read.read_bytes())
        validate = next(file for file in contract.file if file.name == _VALIDATE)
        for file in contract.file:
            if file.name.startswith(_OURS):
                kept = [name for name in file.dependency if name != _VALIDATE]
                file.dependency[:] = kept
        contract.file.remove(validate)
        read.write_bytes(contract.SerializeToString())
        status = _protoc(
            f"--descriptor_set_in={read}",
            *(f"--plugin={name}={_beside_python(name)}" for name in _PLUGINS),
            f"--python_out={output}",
            f"--grpc_python_out={output}",
            f"--mypy_out={output}",
            f"--mypy_grpc_out={output}",
            *protos,
        )
    (output / _OURS / "v1" / "validate.binpb").write_bytes(_shape(validate))
    return status


def _shape(file: FileDescriptorProto) -> bytes:
    """A file's messages and fields alone, which is what reading them takes."""
    file.ClearField("source_code_info")
    _drop_options(file.message_type)
    for extension in file.extension:
        extension.ClearField("options")
    return file.SerializeToString(deterministic=True)


def _drop_options(messages: Iterable[DescriptorProto]) -> None:
    for message in messages:
        for field in (*message.field, *message.extension):
            field.ClearField("options")
        _drop_options(message.nested_type)


def _protoc(*arguments: str) -> int:
    status: int = protoc.main(["protoc", *arguments])
    return status


def _beside_python(name: str) -> Path:
    """The script of this environment, whether or not the environment is on the PATH."""
    return Path(sys.executable).parent / name


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT))
