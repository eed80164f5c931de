#!/usr/bin/env bash
# Installs requirements/protos.txt, the generator of folovllm/v1, into .venv-protos.
#
# Reads PROTOS_PYTHON, the interpreter: its tools have wheels for Python 3.9 to 3.12.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv-protos
export PIP_DISABLE_PIP_VERSION_CHECK=1

fits() { "$1" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info < (3, 13))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${PROTOS_PYTHON:-python3.12 python3.11 .venv/bin/python python3 python3.10 python3.9}; do
    if fits "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  echo "error: the generator of the stubs needs Python 3.9 to 3.12; install one, or name it:" \
    "make protos PROTOS_PYTHON=/path/to/python3.12" >&2
  return 1
}

python=$(find_python)
printf '▸ installing the generator of the stubs into %s with %s\n' "$venv" "$("$python" --version)"
rm -rf "$venv"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --no-deps --only-binary :all: --requirement requirements/protos.txt
