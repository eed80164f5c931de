#!/usr/bin/env bash
# Installs requirements/tools.txt, what writes files that are checked in, into .venv-tools.
#
# Reads TOOLS_PYTHON, the interpreter: there are wheels of all of them for Python 3.9 to 3.12.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv-tools
export PIP_DISABLE_PIP_VERSION_CHECK=1

fits() { "$1" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info < (3, 13))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${TOOLS_PYTHON:-python3.12 python3.11 .venv/bin/python python3 python3.10 python3.9}; do
    if fits "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  echo "error: .venv-tools needs Python 3.9 to 3.12 (requirements/tools.txt says why); install one," \
    "or name it: make TOOLS_PYTHON=/path/to/python3.12 …" >&2
  return 1
}

python=$(find_python)
printf '▸ installing requirements/tools.txt into %s with %s\n' "$venv" "$("$python" --version)"
rm -rf "$venv"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --no-deps --only-binary :all: --requirement requirements/tools.txt
