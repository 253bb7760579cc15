# make demo | make test | make lint      each sets up .venv by itself
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

help:
	@echo "make demo    raw text -> tokenizer -> shards -> trained, resumed, evaluated, generating model (about 5 minutes)"
	@echo "make test    the whole test suite"
	@echo "make lint    ruff and mypy"

setup: $(STAMP)

# torch first and by itself, so that nothing else decides which build of it is taken
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Foreword needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	rm -f $(VENV)/.installed-* && touch $@

demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python demo.py $(if $(DATA),--data $(DATA))

test: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info demo-run
