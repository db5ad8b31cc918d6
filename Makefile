# Every target sets itself up first: a look at .venv makes a second call cost nothing.
override SHELL := /bin/bash
.DEFAULT_GOAL := help
.ONESHELL:
# -f: a * or [0.3,3] in a value is text, never a file's name.
.SHELLFLAGS := -feuo pipefail -c

override BIN := .venv/bin
override READY := .venv/.ready
override WORDS := NAME NAMES SET RUNS JOBS LAUNCHER ROWS SPLIT OUT FORMAT PORT BENCH PYTHON TORCH_BACKEND
override FLAGS := FRESH SHARE REWARD_CODE INEXACT ALL SHORT

# A value is text: make does not expand it ($(value)), and the shell finds it in the environment as GIVEN_NAME and so on,
# where quotes keep it whole. Only the command line gives one: many machines have a NAME or a PORT in their environment.
define take
override GIVEN_$(1) := $$(if $$(filter command,$$(origin $(1))),$$(value $(1)))
export GIVEN_$(1)
$(if $(filter command,$(origin $(1))),unexport $(1))
endef
$(foreach name,$(WORDS) $(FLAGS),$(eval $(call take,$(name))))
ifeq ($(MAKELEVEL),0)
$(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(if $(filter $(name),$(WORDS) $(FLAGS)),,\
    $(error found $(name)=..., allowed $(WORDS) $(FLAGS)))))
endif
$(foreach name,$(FLAGS),$(if $(filter-out 0 1,$(GIVEN_$(name))),$(error $(name): found another value, allowed 1 or 0)))
on = $(if $(filter 1,$(GIVEN_$(1))),$(2))

RUN_OPTIONS = --runs="$${GIVEN_RUNS:-runs}" $${GIVEN_JOBS:+--jobs="$$GIVEN_JOBS"} --settings="$$GIVEN_SET" \
    $(call on,FRESH,--fresh) $(call on,SHARE,--share) $(call on,REWARD_CODE,--allow-reward-code) $(call on,INEXACT,--inexact)

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

# A .venv that is another folder's, or whose interpreter, packages or end of set-up are missing, is made anew.
override FOUND := $(if $(GIVEN_PYTHON),another Python,$(shell bash setup.sh check && echo whole))
ifneq ($(FOUND),whole)
.PHONY: $(READY)
endif
$(READY): requirements.lock pyproject.toml
	@bash setup.sh

.PHONY: help setup exp plan data report compare export dashboard sync test faults check fix bench lock clean

setup: $(READY)  ## create .venv with everything that is needed

exp: $(READY)  ## run an experiment and what it depends on: NAME=... [SET="beta=0.2 steps=10"] [RUNS=folder] [JOBS=n] [LAUNCHER=name] [FRESH=1] [SHARE=1] [REWARD_CODE=1] [INEXACT=1]
	@$(BIN)/workbench run $(RUN_OPTIONS) $${GIVEN_LAUNCHER:+--launcher="$$GIVEN_LAUNCHER"} -- "$$GIVEN_NAME"

plan: $(READY)  ## what would run, what is cached, what changed, and what it will take: NAME=...
	@$(BIN)/workbench plan $(RUN_OPTIONS) -- "$$GIVEN_NAME"

data: $(READY)  ## what the model will see, token by token: NAME=... [SET=...] [ROWS=n] [SPLIT=held_out]
	@$(BIN)/workbench data --runs="$${GIVEN_RUNS:-runs}" --settings="$$GIVEN_SET" $${GIVEN_ROWS:+--rows="$$GIVEN_ROWS"} \
	    $${GIVEN_SPLIT:+--split="$$GIVEN_SPLIT"} -- "$$GIVEN_NAME"

report: $(READY)  ## write the report of one experiment again: NAME=...
	@$(BIN)/workbench report --runs="$${GIVEN_RUNS:-runs}" --settings="$$GIVEN_SET" -- "$$GIVEN_NAME"

compare: $(READY)  ## one report over several experiments: NAMES="a b c"
	@$(BIN)/workbench compare --runs="$${GIVEN_RUNS:-runs}" -- $$GIVEN_NAMES

export: $(READY)  ## runs, metrics and completions as tables: NAMES="a b" [OUT=folder] [FORMAT=parquet]
	@runs=$${GIVEN_RUNS:-runs}
	$(BIN)/workbench export --runs="$$runs" --out="$${GIVEN_OUT:-$$runs/exports}" --format="$${GIVEN_FORMAT:-csv}" -- $$GIVEN_NAMES

dashboard: $(READY)  ## TensorBoard over all runs: [RUNS=folder] [PORT=n]
	@exec $(BIN)/workbench dashboard --runs="$${GIVEN_RUNS:-runs}" $${GIVEN_PORT:+--port="$$GIVEN_PORT"}

sync: $(READY)  ## send offline W&B runs to the server
	@$(BIN)/python -m workbench.tracking.sinks.sync "$${GIVEN_RUNS:-runs}"

test: $(READY)  ## run the tests in minutes; with ALL=1 the slow ones too: every shipped experiment, the runner, parity with TRL
	@$(BIN)/python -m pytest -n logical --dist worksteal -p tests.faults.tally $(if $(call on,ALL,1),,-m "not slow")

faults: $(READY)  ## inject every fault of the matrix and print what survived, in 40 minutes [ROWS="1 17"] [SHORT=1]
	@$(BIN)/python -m tests.faults $(call on,SHORT,--short) -- $$GIVEN_ROWS

check: $(READY)  ## read-only: lint, format, types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

fix: $(READY)  ## mend what lint and format can mend
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: $(READY)  ## measure against TRL, side by side [BENCH="sweep --quick"]
	@$(BIN)/python -m tests.benchmarks $$GIVEN_BENCH

# Resolved without find-links, so that the lock names no local build.
lock: $(READY)  ## resolve requirements.lock anew
	@env -u UV_FIND_LINKS $(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --extra gguf --extra test --extra check --no-annotate \
	    --custom-compile-command "make lock" pyproject.toml \
	    | grep -vE '^(nvidia-|cuda-|triton=)' > requirements.lock.partial
	mv requirements.lock.partial requirements.lock

clean:  ## remove .venv and caches (never runs/)
	set +f; rm -rf .venv .mypy_cache .ruff_cache *.egg-info
