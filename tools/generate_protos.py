"""Generates the checked-in stubs under folovllm/v1 from protos/, with types.

    .venv-tools/bin/python -m tools.generate_protos [OUTPUT_FOLDER]

Runs with the packages of requirements/tools.txt, which says why in these versions. The output
folder defaults to the repository root, so that the path of a .proto file equals the import path of
its module and no generated line needs editing.
"""

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent


def main(output: Path) -> int:
    """Writes the stubs below `output` and returns protoc's exit status."""
    well_known = files("grpc_tools") / "_proto"
    protos = sorted(str(path) for path in (ROOT / "protos").rglob("*.proto"))
    status: int = protoc.main(
        [
            "protoc",
            f"--proto_path={ROOT / 'protos'}",
            f"--proto_path={well_known}",
            *(f"--plugin={name}={_beside_python(name)}" for name in _PLUGINS),
            f"--python_out={output}",
            f"--grpc_python_out={output}",
            f"--mypy_out={output}",
            f"--mypy_grpc_out={output}",
            *protos,
        ]
    )
    return status


_PLUGINS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")


def _beside_python(name: str) -> Path:
    """The script of this environment, whether or not the environment is on the PATH."""
    return Path(sys.executable).parent / name


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT))
