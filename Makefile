# `make demo` and `make test` do all set-up: a virtual environment, the package, the data. Repeated, they take seconds.
# PYTHON=python3.12 chooses another Python; TORCH_INDEX=URL another index for torch.
SHELL := /bin/bash
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
# On Linux the plain build of torch brings 2.7 GB of CUDA libraries: without an NVIDIA GPU take the CPU build, from an index
# configured on this machine or from PyTorch's own; where neither has it, the plain one works too.
CPU_INDEX ?= https://download.pytorch.org/whl/cpu
PIP := .venv/bin/python -m pip --disable-pip-version-check install --quiet
ICF := .venv/bin/python -m icf_avs

.PHONY: help setup data demo site lint test test-all test-slow test-install test-lowest train evaluate docs clean

help:
	@echo "make demo       segment a few videos whose answer is known, and show the scores"
	@echo "make test       check the code: ruff, mypy, and the tests but for those that take long"
	@echo "make test-all   the same with the long tests"
	@echo "make test-slow  the tests that need Ray and a Chromium"
	@echo "make test-install  what pip installs into an empty environment, and each extra (a large download)"
	@echo "make test-lowest  tests with the oldest libraries that pyproject.toml allows (a large download)"
	@echo "make train      train the shipped model anew (RECIPE=$(RECIPE))"
	@echo "make evaluate   score the checkpoint stamps into results/stamps.csv"
	@echo "make docs       write the tables of README.md and docs from results/*.csv"
	@echo "make site       the documents as a web site, in site/"
	@echo "make setup      only the environment;   make data   only the data;   make clean   remove both"

setup: .venv/.ready

# Debian's Python comes without its venv module; as root on such a machine we add what lacks, else we say what to do.
.venv/.python:
	@add() { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	    && DEBIAN_FRONTEND=noninteractive apt-get install -qqy "$$@" >/dev/null; }; \
	fail() { echo "set-up: $$*" >&2; exit 1; }; \
	command -v $(PYTHON) >/dev/null || add python3; \
	command -v $(PYTHON) >/dev/null || fail "no $(PYTHON): install Python 3.11 or newer, or name one by PYTHON=..."; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || fail "$$($(PYTHON) --version) is too old: want 3.11 or newer; name one by PYTHON=..."; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || add python3-venv; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	    || fail "$(PYTHON) lacks its venv module: install it (Debian: apt-get install python3-venv)"; \
	echo "set-up: virtual environment .venv"; \
	rm -rf .venv && $(PYTHON) -m venv .venv && touch $@

.venv/.ready: .venv/.python pyproject.toml
	@echo "set-up: $(TORCH) and the package (a minute or a few)"
	@if [ -n "$(TORCH_INDEX)" ]; then $(PIP) "$(TORCH)" --index-url "$(TORCH_INDEX)"; \
	elif [ "$$(uname -s)" = Linux ] && ! nvidia-smi >/dev/null 2>&1; then \
	    $(PIP) "$(TORCH)+cpu" 2>/dev/null || $(PIP) "$(TORCH)" --retries 0 --timeout 15 --index-url $(CPU_INDEX) 2>/dev/null \
	    || $(PIP) "$(TORCH)"; \
	else $(PIP) "$(TORCH)"; fi
	@$(PIP) --editable ".[dev,train]"
	@touch $@

data: setup
	@$(ICF) data fetch

demo: data
	@$(ICF) demo

PYTEST := .venv/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test: lint
	@$(PYTEST) -m "not full and not ray and not browser and not install"

test-all: lint
	@$(PYTEST)

lint: data
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m mypy

# What half a gigabyte of Ray and a Chromium on this machine are needed for.
test-slow: data
	@$(PIP) --editable ".[slow]"
	@.venv/bin/python -m pytest -m "ray or browser"

# In environments of their own, with the torch above.
test-install: data
	@ICF_TORCH="$(TORCH)" .venv/bin/python -m pytest -m install tests/test_install.py

# In an environment of its own. LOWEST_OPTIONS: see `python benchmarks/lowest.py --help`.
test-lowest: data
	@.venv/bin/python benchmarks/lowest.py $(LOWEST_OPTIONS)

RECIPE ?= stamps
train: data
	@$(ICF) train $(RECIPE)

evaluate: data
	@$(ICF) evaluate stamps

docs: setup
	@.venv/bin/python -m tools.fill_tables

# The documents as a web site, in site/; fails on a page that mkdocs cannot build.
site: setup
	@$(PIP) --editable ".[docs]"
	@.venv/bin/python -m mkdocs build --strict

clean:
	rm -rf .venv .venv-lowest demo_out
