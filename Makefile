PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SWEEP ?= sweeps/catalog/demo.yaml
CLUSTER ?= auto
RUNS ?= runs
ARGS ?=
# Files of tests that run at once; in their order, since by numbers of tests the few long ones would come last.
TEST_JOBS ?= 2
# Some pinned versions need Python 3.11; on 3.10 the lower bounds of pyproject.toml decide.
PINS = $(BIN)/python -c 'import sys; print("-c constraints.txt" if sys.version_info >= (3, 11) else "")'
export HARNESS_RUNS = $(RUNS)
# Tests start hundreds of processes, which would else compile the same files again where this is set.
test test-all test-slurm: export PYTHONDONTWRITEBYTECODE =

.PHONY: help install lint test test-all test-slurm smoke bench sweep slurm-dev slurm-dev-stop clean

define HELP
make install       .venv with the versions that the tests pass with (6.4 GB)
make sweep         train, evaluate and report the demo, or SWEEP=FILE CLUSTER=NAME DATA=FOLDER RUNS=FOLDER ARGS=WORDS
make lint          ruff and mypy
make test          the tests that are fast; TEST_JOBS=2 files at once
make test-all      all tests but those of SLURM and of smoke runs
make test-slurm    the tests that start a SLURM of their own (root on Debian or Ubuntu)
make smoke         the smallest training of every recipe
make bench         the speed figures that the documentation quotes
make slurm-dev     start a SLURM on this machine, for CLUSTER=dev; make slurm-dev-stop ends it
make clean         remove .venv and what a build left
endef
export HELP

help:
	@echo "$$HELP"

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV); this takes a few minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --disable-pip-version-check $$($(PINS)) -e '.[dev]'
	@touch $@

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

test: install
	$(BIN)/pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder -m "not slow and not slurm and not smoke and not gpu"

test-all: install
	$(BIN)/pytest -m "not slurm and not smoke"

test-slurm: install
	$(BIN)/pytest -m slurm -rs tests

smoke: install
	$(BIN)/harness smoke

bench: install
	$(BIN)/harness bench all

sweep: install
	$(BIN)/harness sweep $(SWEEP) --cluster $(CLUSTER) $(if $(DATA),--data "$(DATA)") $(ARGS)

slurm-dev: install
	$(BIN)/python -m slurm.devcluster start

slurm-dev-stop: install
	$(BIN)/python -m slurm.devcluster stop

clean:
	rm -rf $(VENV) build *.egg-info
