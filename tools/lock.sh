#!/usr/bin/env bash
# Writes requirements/lock.txt: the versions of everything that the project and its extras need,
# the newest, for Python 3.11 and newer.
#
# They are constraints for pip (`pip install --constraint`), so that each installation takes what it
# needs of them. torch is not among them, since TORCH chooses it, and neither is triton, whose
# version torch's builds with CUDA name. Packages come from PyPI; UV_DEFAULT_INDEX names another
# index, which the file does not tell.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

.venv-tools/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
  --config-file requirements/uv.toml --custom-compile-command "make lock" \
  --no-emit-package torch --no-emit-package triton \
  --all-extras pyproject.toml --output-file requirements/lock.txt
