# The same commands for people and for CI. A fresh machine needs Python 3.11 or newer with venv, and make.

.PHONY: all help demo test test-full lint format bench clean
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.13 || command -v python3.12 || command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2

help:
	@echo "make demo       install into $(VENV) and watch an agent work on a VM"
	@echo "make test       install and run the tests (TEST=path for some of them)"
	@echo "make test-full  the heavy matrix as well"
	@echo "make lint       ruff and strict mypy"
	@echo "make format     ruff format and safe fixes"
	@echo "make bench      measure, side by side with the peers"

$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "langchain-vers needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# One stamp for each set of extras; reinstalled when pyproject.toml changes.
$(VENV)/.with-%: $(VENV)/.python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

demo: $(VENV)/.with-demo
	$(BIN)/langchain-vers demo

TEST ?= tests
test: $(VENV)/.with-test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not full" $(TEST)

test-full: $(VENV)/.with-test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --hypothesis-profile full $(TEST)

lint: $(VENV)/.with-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.with-lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.with-test
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
