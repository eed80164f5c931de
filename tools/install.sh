#!/usr/bin/env bash
# Installs the project into .venv, which it creates where it is missing: tools/install.sh EXTRA
#
# Reads PYTHON (interpreter for a new .venv), TORCH (requirement) and TORCH_INDEX (CPU builds).
# Versions of everything else are those of requirements/lock.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extra=$1
venv=.venv
lock=requirements/lock.txt
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '▸ %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if new_enough "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  fail "FolovLLM needs Python 3.11 or newer${PYTHON:+, which $PYTHON is not}; install it, or name it: make PYTHON=/path/to/python3 …"
}

answers() {
  "$venv/bin/python" - "$1" 2>/dev/null <<'PYTHON'
import sys
import urllib.request

urllib.request.urlopen(sys.argv[1], timeout=3).close()
PYTHON
}

if [[ ! -x $venv/bin/python ]]; then
  python=$(find_python)
  say "creating $venv with $("$python" --version)"
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make virtual environments; install its venv package (Debian: python3-venv)"
  "$python" -m venv "$venv"
fi
new_enough "$venv/bin/python" || fail "$venv holds an older Python than 3.11; remove it and try again"

index=()
if nvidia-smi -L >/dev/null 2>&1; then
  say "installing $TORCH (GPU build)"
elif [[ -z $TORCH_INDEX ]]; then
  say "installing $TORCH"
elif answers "$TORCH_INDEX/torch/"; then
  say "installing $TORCH (CPU build)"
  index=(--extra-index-url "$TORCH_INDEX")
else
  say "installing $TORCH (from pip's own indexes: $TORCH_INDEX does not answer)"
fi
"$venv/bin/python" -m pip install --constraint "$lock" ${index[@]+"${index[@]}"} "$TORCH" ||
  fail "pip could not install $TORCH; see above, or choose another: make TORCH=torch==X.Y …"

say "installing folovllm[$extra]"
"$venv/bin/python" -m pip install -qq --constraint "$lock" --editable ".[$extra]" ||
  fail "pip could not install the project; see above. Where $lock no longer fits: make lock"
# Else every start compiles it where the environment keeps Python from writing that down.
"$venv/bin/python" -m compileall -q folovllm tokenizer_service engine_service client/folovllm_client

# Other processors have no use for them. Where it fails the engine tries again when it starts, and
# computes without, which is slower.
if grep -qs avx512_bf16 /proc/cpuinfo && grep -qs avx512_vnni /proc/cpuinfo; then
  say "compiling the CPU kernels"
  reason=$("$venv/bin/python" -m engine_service.kernels.cpu.build 2>&1 >/dev/null) || say "$reason"
fi
