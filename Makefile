# Everything is installed into .venv. A repeated `make` does only what is missing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The build of a TextWorld dependency calls `python`, which some systems have only inside a virtual environment.
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Work is distributed over processes with one thread each.
OMP_NUM_THREADS ?= 1
TOKENIZERS_PARALLELISM ?= false
export OMP_NUM_THREADS TOKENIZERS_PARALLELISM

# On Linux this includes CUDA. Without a GPU, a tenth of the download is enough:
#   make setup TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH          ?= torch==2.13.0
.PHONY: help setup demo test lint bench textworld clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.installed  ## create a virtual environment with this package

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "$(PYTHON) is older than 3.10; choose another: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { echo "$(PYTHON) cannot create a virtual environment (on Debian: apt install python3-venv)"; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $@

textworld: $(VENV)/.textworld  ## install the real ALFWorld engine, for the parity tests and backend: textworld

$(VENV)/.textworld: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e ".[dev,textworld]"
	@touch $@

demo: setup  ## train an agent on household tasks, in about 12 minutes on 2 cores
	$(BIN)/empg train recipes/demo.yaml --run runs/demo --force

test: textworld  ## run all tests, fast and slow
	$(BIN)/python -m pytest -n 2

lint: setup  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: textworld  ## compare the speed of the ALFWorld engine with the real one
	$(BIN)/python benchmarks/alfworld_speed.py

clean:  ## remove the virtual environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
