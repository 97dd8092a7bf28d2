# Everything is installed into virtual environments inside this folder. A repeated `make` does only what is missing.
# `make setup` installs the exact versions of requirements/dev.txt, which `make lock` renews.
PYTHON ?= python3
VENV   := .venv
LATEST := .venv-latest
LOWEST := .venv-lowest
TRL    := .venv-trl
VERL   := .venv-verl
OPENENV := .venv-openenv
BIN    := $(VENV)/bin

UPLOT ?= 1.6.32
AXE ?= 4.14.1

# Work is distributed over processes with one thread each.
OMP_NUM_THREADS ?= 1
TOKENIZERS_PARALLELISM ?= false
UV_HTTP_TIMEOUT ?= 180
export OMP_NUM_THREADS TOKENIZERS_PARALLELISM UV_HTTP_TIMEOUT

# pip installs torch, because its configuration decides which build; uv installs the rest, ten times faster than pip.
PIP   ?= pip==26.3
UV    ?= $(shell sed -n 's/^\(uv==[0-9.]*\).*/\1/p' requirements/dev.txt)
# On Linux this includes CUDA. Without a GPU, a tenth of the download is enough:
#   make setup TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0

# The build of a TextWorld dependency calls `python`, which some systems have only inside a virtual environment.
with_python = PATH="$(CURDIR)/$(BIN):$$PATH"
quick_tests = -m pytest -n 2 --dist worksteal -m "not slow"

# $(call broken,FOLDER): a prerequisite that is never up to date if FOLDER is not a working environment.
broken = $(if $(shell $(1)/bin/python -m pip --version 2> /dev/null),,broken-environment)

# That PYTHON can be used.
define check_python
@command -v "$(PYTHON)" > /dev/null \
  || { echo "PYTHON=$(PYTHON): command not found. Name Python 3.10 or later: make PYTHON=python3.12"; exit 1; }
@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
  || { echo "PYTHON=$(PYTHON): expected Python 3.10 or later. Name another: make PYTHON=python3.12"; exit 1; }
endef

# $(call environment,FOLDER): a virtual environment with pip and torch; a broken one is created again.
define environment
$(check_python)
@$(1)/bin/python -m pip --version > /dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(1) \
  || { echo "$(PYTHON) cannot create a virtual environment (on Debian: apt install python3-venv)"; rm -rf $(1); exit 1; }
@echo "$(1): installing $(firstword $(TORCH))"
@$(1)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP) $(UV)
@$(1)/bin/python -m pip install --quiet $(TORCH)
endef

install = $(1)/bin/python -m uv pip install --quiet --python $(1)/bin/python

# $(call locked,FOLDER,NAME): install requirements/NAME.txt as it is.
define locked
@echo "$(1): installing requirements/$(2).txt"
@$(with_python) $(call install,$(1)) --no-deps --require-hashes -r requirements/$(2).txt
endef

# $(call editable,FOLDER): install this package, with the build backend that the lock brought.
define editable
@$(call install,$(1)) --no-deps --no-build-isolation --editable .
endef

.SECONDEXPANSION:
.PHONY: help setup demo test test-latest test-lowest test-trl test-openenv test-verl test-gpu notebook lint freeze lock report-assets bench textworld clean broken-environment

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.installed  ## install this package and its tools into .venv, in the versions of requirements/dev.txt

$(VENV)/.installed: pyproject.toml requirements/dev.txt $$(call broken,$(VENV))
	$(call environment,$(VENV))
	$(call locked,$(VENV),dev)
	$(call editable,$(VENV))
	@touch $@

textworld: $(VENV)/.textworld  ## add the real ALFWorld engine, for the parity test and backend: textworld

$(VENV)/.textworld: $(VENV)/.installed requirements/textworld.txt
	$(call locked,$(VENV),textworld)
	@touch $@

demo: setup  ## train an agent on household tasks, in about 5 minutes on 2 free cores
	$(BIN)/empg train recipes/demo.yaml --run runs/demo

test: textworld  ## run every test, fast and slow
	$(with_python) $(BIN)/python -m pytest -n 2 --dist worksteal

test-latest:  ## run the quick tests with the newest versions that pyproject.toml allows, in .venv-latest
	@rm -rf $(LATEST)
	$(call environment,$(LATEST))
	@echo "$(LATEST): installing the newest versions"
	@$(call install,$(LATEST)) --editable ".[dev]"
	@$(LATEST)/bin/python requirements/changes.py requirements/dev.txt
	$(LATEST)/bin/python $(quick_tests)

test-lowest: $(LOWEST)/.installed  ## run the quick tests with the lowest versions that pyproject.toml allows, in .venv-lowest
	$(LOWEST)/bin/python $(quick_tests)

$(LOWEST)/.installed: pyproject.toml requirements/lowest.txt $$(call broken,$(LOWEST))
	$(check_python)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info >= (3, 12))' \
	  || { echo "PYTHON=$(PYTHON): expected Python 3.10 or 3.11, for which the lowest versions have wheels"; exit 1; }
	$(call environment,$(LOWEST))
	$(call locked,$(LOWEST),lowest)
	$(call editable,$(LOWEST))
	@touch $@

test-gpu: setup  ## run the tests that need a CUDA device; elsewhere they are skipped
	$(BIN)/python -m pytest -rs tests/gpu

test-trl: $(TRL)/.installed  ## run the tests of the TRL engine, fast and slow, in .venv-trl
	$(TRL)/bin/python -m pytest -n 2 tests/engines tests/credit/test_parity.py

$(TRL)/.installed: pyproject.toml requirements/dev.txt requirements/trl.txt $$(call broken,$(TRL))
	$(check_python)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "PYTHON=$(PYTHON): expected Python 3.11 or later, which TRL needs"; exit 1; }
	$(call environment,$(TRL))
	$(call locked,$(TRL),dev)
	$(call locked,$(TRL),trl)
	$(call editable,$(TRL))
	@touch $@

test-openenv: $(OPENENV)/.installed  ## test the served environments with OpenEnv's own client, in .venv-openenv
	$(OPENENV)/bin/python -m pytest tests/environments/test_openenv.py tests/environments/test_openenv_client.py

$(OPENENV)/.installed: pyproject.toml requirements/openenv.txt $$(call broken,$(OPENENV))
	$(call environment,$(OPENENV))
	$(call locked,$(OPENENV),openenv)
	$(call editable,$(OPENENV))
	@touch $@

test-verl: $(VERL)/.installed  ## run the tests of the verl engine, fast and slow, in .venv-verl
	$(VERL)/bin/python -m pytest -n 2 --dist loadfile tests/engines/verl tests/credit/test_parity.py

$(VERL)/.installed: pyproject.toml requirements/verl.txt $$(call broken,$(VERL))
	$(check_python)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info >= (3, 13))' \
	  || { echo "PYTHON=$(PYTHON): expected Python 3.10 to 3.12, which verl needs"; exit 1; }
	$(call environment,$(VERL))
	$(call locked,$(VERL),verl)
	$(call editable,$(VERL))
	@touch $@

notebook: setup  ## execute the notebook of docs/ on runs/demo and store its outputs
	$(BIN)/python scripts/execute_notebook.py docs/notebooks/wrong_credit.ipynb

lint: setup  ## check style, spelling, links and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/python scripts/check_links.py
	$(BIN)/mypy

freeze: setup  ## renew the frozen curves of tests/run, after a change that is meant to change results
	$(BIN)/python -m tests.run.frozen

lock: setup  ## renew requirements/*.txt from pyproject.toml
	$(BIN)/python requirements/lock.py $(firstword $(TORCH))

report-assets:  ## fetch the plotting library of the report and axe-core of its tests again; a test checks their hashes
	rm -rf build/npm && mkdir -p build/npm/uplot build/npm/axe-core
	cd build/npm/uplot && npm pack --silent uplot@$(UPLOT) && tar xzf *.tgz
	cd build/npm/axe-core && npm pack --silent axe-core@$(AXE) && tar xzf *.tgz
	cd build/npm/uplot/package && cp LICENSE dist/uPlot.iife.min.js dist/uPlot.min.css $(CURDIR)/src/empg/report/assets/uplot
	cd build/npm/axe-core/package && cp LICENSE axe.min.js $(CURDIR)/tests/report/axe_core

bench: textworld  ## compare the speed of the ALFWorld engine with the real one
	$(with_python) $(BIN)/python benchmarks/alfworld_speed.py

clean:  ## remove the virtual environments and the caches
	rm -rf $(VENV) $(LATEST) $(LOWEST) $(TRL) $(VERL) $(OPENENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
