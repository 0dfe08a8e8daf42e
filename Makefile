# make demo    sets everything up, then completes a real Python file with the bundled models
# make test    sets everything up, then runs the whole test suite (lint, types and doctests included)
#
# Variables: PYTHON (3.11 or later) makes the environment; TORCH_INDEX is an index that has the torch build you want
# (a CPU or another CUDA build); JOBS is the number of test processes.

PYTHON ?= python3
TORCH_INDEX ?=
JOBS ?= auto

BIN := .venv/bin
STAMP := .venv/.installed

export PIP_NO_INPUT := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: install demo test check bench

install: $(STAMP)

# Debian without python3-venv cannot put pip into a new environment; the pip outside of it can.
$(BIN)/python:
	$(PYTHON) -m venv .venv || ( $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python .venv/bin/python install pip )

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing torch first: about 200 MB to download for a CPU build, several GB with CUDA (choose with TORCH_INDEX=...)."
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev,plan,bench,ray]"
	@touch $@

demo: install
	$(BIN)/anydraft demo

check: install
	$(BIN)/ruff check src tests
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -q --doctest-modules src/anydraft tests/test_catalogue.py tests/test_architecture.py

test: check
	$(BIN)/python -m pytest -q -n $(JOBS) --maxprocesses 8 tests

bench: install
	$(BIN)/python -m anydraft.bench
