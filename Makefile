# The same commands for people and for CI. A fresh machine needs Python 3.11 or newer with venv, and make.

.PHONY: all help demo test test-full deepagents-code lint format docs bench clean
.DEFAULT_GOAL := help

# The first Python that is new enough and really starts: a version manager's stand-ins are there and do not.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 3

help:
	@echo "make demo       install into $(VENV) and watch an agent work on a VM"
	@echo "make test       install and run the tests (TEST=path for some of them)"
	@echo "make test-full  the heavy matrix as well"
	@echo "make deepagents-code  install Deep Agents' command line, for its test in make test"
	@echo "make lint       ruff and strict mypy"
	@echo "make format     ruff format and safe fixes"
	@echo "make docs       render the pages and docstrings into docs/_build/html"
	@echo "make bench      measure, side by side with the peers"

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "langchain-vers needs Python 3.11 or newer; name one with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# One stamp for each set of extras; reinstalled when pyproject.toml changes.
$(VENV)/.with-%: $(VENV)/.python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

# The command line of Deep Agents wants versions of its own, so it has an environment of its own (432 MB), which only its test uses.
CODE := $(VENV)/deepagents-code
deepagents-code: $(CODE)/.ready
$(CODE)/.ready: $(VENV)/.python pyproject.toml
	$(BIN)/python -m venv $(CODE)
	$(CODE)/bin/pip install --quiet --disable-pip-version-check 'deepagents-code>=0.1.57,<0.2' --editable '.[deepagents,embedded]'
	@touch $@

demo: $(VENV)/.with-demo
	$(BIN)/langchain-vers demo

TEST ?= tests
test: $(VENV)/.with-test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not full" $(TEST)

test-full: $(VENV)/.with-test $(VENV)/.with-docs deepagents-code
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --hypothesis-profile full $(TEST)

lint: $(VENV)/.with-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.with-lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The list of entries is made anew, so that one that is gone leaves no page.
docs: $(VENV)/.with-docs
	rm -rf docs/reference/generated
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d docs/_build/doctrees docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/.with-test
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) dist build docs/_build docs/reference/generated .pytest_cache .mypy_cache .ruff_cache .hypothesis
