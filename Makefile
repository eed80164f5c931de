# What a developer types. Everything that needs Python runs in .venv, made on first use.

# The engine's torch. Where there is no NVIDIA GPU it comes from TORCH_INDEX: the build for CPUs,
# without gigabytes of CUDA libraries. PYTHON names the interpreter, if not the first fitting one.
TORCH ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PYTHON ?=
# Options of the benchmark, such as --peers transformers --json FILE.
BENCH ?=
# Options of chaos and chaos-full, such as --seed 7 or --checkout ../before.
CHAOS ?=
# Options of the fuzz, such as --seed 7.
FUZZ ?=
# Seeds that the simulation runs, or requests until it ends.
SEEDS ?= 100
REQUESTS ?=
# The interpreter of .venv-tools, if not the first fitting one; see requirements/tools.txt.
TOOLS_PYTHON ?=
export TORCH TORCH_INDEX PYTHON TOOLS_PYTHON

BIN := .venv/bin
# Tests and import-linter look for their helpers on the PATH. Not for demo and serve, which print
# commands to type in a shell that has no such PATH.
test simulate chaos chaos-full fuzz lint: export PATH := $(CURDIR)/$(BIN):$(PATH)

# Those for which protoc generates messages by itself.
CLIENT_LANGUAGES := cpp csharp java kotlin objc python ruby

CXX_SOURCES := $(wildcard engine_service/kernels/cpu/*.cpp engine_service/kernels/cpu/*.h)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo serve test simulate chaos chaos-full fuzz fmt hooks lint client-sync client-sync-check protos protos-check release lock compose-test demo-model bench-cpu bench-gpu

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

demo: .venv/.installed ## Start both services, stream an answer, stop them again
	@$(BIN)/folovllm demo

serve: .venv/.installed ## Serve the embedded model on localhost:50051 until Ctrl-C
	@$(BIN)/folovllm serve

test: .venv/.installed-dev ## Run the whole suite, with coverage
	@$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --cov --cov-report=term:skip-covered --cov-fail-under=90

simulate: .venv/.installed-dev ## Run the services under a virtual clock and faults; SEEDS=1000, or REQUESTS=1000000
	@PYTHONPATH=tests:client $(BIN)/python -m simulation $(if $(REQUESTS),--requests $(REQUESTS),--seeds $(SEEDS))

chaos: .venv/.installed-dev ## Break real services for twenty minutes; CHAOS="--seed 7" or other options
	@PYTHONPATH=tests $(BIN)/python -m chaos all $(CHAOS)

chaos-full: .venv/.installed-dev ## The same in full, for hours; CHAOS="--checkout ../before" adds the price
	@PYTHONPATH=tests $(BIN)/python -m chaos all --full $(CHAOS)

fuzz: .venv/.installed-dev ## Send 500,000 messages and 4,000 grammars; FUZZ="--seed 7" sends others
	@PYTHONPATH=tests $(BIN)/python -m fuzz.grammars $(FUZZ)
	@PYTHONPATH=tests $(BIN)/python -m fuzz messages $(FUZZ)

fmt: .venv/.installed-dev ## Format the Python, the C++ and the contract, and mend what ruff can
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format
	@$(BIN)/clang-format -i $(CXX_SOURCES)
	@$(BIN)/buf format -w protos --exclude-path protos/buf

hooks: .venv/.installed-dev ## Let git run `make lint` before each commit
	@$(BIN)/pre-commit install

lint: .venv/.installed-dev client-sync-check ## Check style, types, import rules and the contract
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/buf format --diff --exit-code protos --exclude-path protos/buf
	@$(BIN)/buf lint protos

client-sync: .venv/.installed-dev ## Generate the synchronous client from the asynchronous one
	@$(BIN)/python -m tools.generate_sync_client

client-sync-check: .venv/.installed-dev ## Fail where the synchronous client is not what is generated
	@$(BIN)/python -m tools.generate_sync_client --check

protos: .venv-tools/.installed ## Generate folovllm/v1 from protos/
	@.venv-tools/bin/python -m tools.generate_protos

protos-check: .venv-tools/.installed ## Fail where folovllm/v1 is not what protos/ generates, or others cannot
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	.venv-tools/bin/python -m tools.generate_protos "$$fresh" && \
	{ diff -r -x __init__.py -x __pycache__ "$$fresh/folovllm/v1" folovllm/v1 || \
	{ echo "error: folovllm/v1 is not what protos/ generates; run 'make protos'" >&2; exit 1; }; }
	@clients=$$(mktemp -d) && trap 'rm -rf "$$clients"' EXIT && .venv-tools/bin/protoc -I protos \
	$(foreach language,$(CLIENT_LANGUAGES),--$(language)_out="$$clients") \
	$$(cd protos && find buf folovllm -name '*.proto') && \
	{ [ -n "$$(ls "$$clients")" ] || { echo "error: protoc has generated nothing" >&2; exit 1; }; }

release: .venv/.installed-release ## Build the distributions and check them as a user meets them
	@$(BIN)/python -m tools.release

lock: .venv-tools/.installed ## Take the newest versions of all packages into requirements/lock.txt
	@bash tools/lock.sh

compose-test: .venv/.installed ## Build the containers, generate through them, take them down
	@$(BIN)/python -m tools.compose_test

demo-model: .venv/.installed-dev ## Rebuild the embedded model: corpus, tokenizer, training, card
	@OMP_NUM_THREADS=1 $(BIN)/python -m tools.demo_model.build

bench-cpu: .venv/.installed ## Measure the speed on this CPU; BENCH="--quick" or other options
	@$(BIN)/python -m benchmarks cpu $(BENCH)

bench-gpu: .venv/.installed ## Measure the speed on this NVIDIA GPU; BENCH="--only decode" or others
	@$(BIN)/python -m benchmarks gpu $(BENCH)

.venv/.installed: pyproject.toml requirements/lock.txt tools/install.sh
	@bash tools/install.sh all
	@touch $@

.venv/.installed-dev .venv/.installed-release: .venv/.installed-%: pyproject.toml requirements/lock.txt tools/install.sh
	@bash tools/install.sh $*
	@touch .venv/.installed $@

.venv-tools/.installed: requirements/tools.txt tools/install_tools.sh
	@bash tools/install_tools.sh
	@touch $@
