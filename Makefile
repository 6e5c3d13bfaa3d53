# Two commands set everything up on a machine with Python 3.11 or newer:
#   make serve    installs the mirror into .venv and runs it on loopback
#   make test     installs it with what the tests need, and runs them all
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: serve test check bench docs clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.develop: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,check]'
	@touch $@ $(VENV)/.serve

serve: $(VENV)/.serve
	$(BIN)/entrepot serve $(ARGS)

test: $(VENV)/.develop
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p .typecheck/entrepot
	@ln -sfn ../../proxy .typecheck/entrepot/proxy
	@ln -sfn ../../cache .typecheck/entrepot/cache
	$(BIN)/mypy

bench: $(VENV)/.develop
	$(BIN)/python bench/run.py

# What is written by the code itself.
docs: $(VENV)/.serve
	$(BIN)/python -m entrepot.proxy.config.reference > docs/configuration.md

clean:
	rm -rf $(VENV) .typecheck build *.egg-info
