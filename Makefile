# Needs Python 3.11 or newer, make and git; everything else is installed into .venv.

VENV  ?= .venv
MODEL ?= demo
HOST  ?= 127.0.0.1
PORT  ?= 8000
ARGS  ?=
# Where PyTorch publishes its small CPU builds. Empty: install from the usual index alone.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := $(VENV)/bin
IS_PYTHON := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for each in python3.11 python3.12 python3.13 python3 python; do \
	"$$each" -c '$(IS_PYTHON)' >/dev/null 2>&1 && echo "$$each" && break; done)

.PHONY: help serve eval test bench lint format clean

help: ## List the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

serve: $(VENV)/.installed ## Serve a model: make serve [MODEL=demo] [PORT=8000] [ARGS="--threads 2"]
	@exec $(BIN)/mcts-serve serve --model "$(MODEL)" --host "$(HOST)" --port "$(PORT)" $(ARGS)

eval: $(VENV)/.installed-eval ## Measure accuracy over tokens: make eval ARGS="--task game24 --limit 10 --budget 200"
	@$(BIN)/mcts-serve eval $(ARGS)

test: $(VENV)/.installed-dev ## Run the tests: make test [ARGS="tests/server -k stream"]
	@$(BIN)/python -m pytest $(ARGS)

bench: $(VENV)/.installed-dev ## Measure the engine: make bench [ARGS="--shape large --plot bench.png"]
	@$(BIN)/python -m benchmarks.engine $(ARGS)

lint: $(VENV)/.installed-dev ## Check style, types and the contracts between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mdformat --check README.md docs
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## Format code and pages
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mdformat README.md docs

clean: ## Remove the virtual environment and the caches
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found. Install it," \
		"or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c '$(IS_PYTHON)' || { echo "$(PYTHON) is older than Python 3.11."; exit 1; }
	@echo "Creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)

# PyTorch first: for Linux the usual index has a build that brings gigabytes of CUDA along. Without
# an NVIDIA GPU the CPU build is taken, unless pip was told where to look, or it cannot be reached.
$(VENV)/.torch: pyproject.toml | $(BIN)/python
	@torch=$$(sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml); \
	if [ "$$(uname -s)" = Linux ] && [ -n "$(TORCH_INDEX)" ] \
		&& ! $(BIN)/python -m pip config list 2>/dev/null | grep -E 'index|find-links' >/dev/null \
		&& ! nvidia-smi -L >/dev/null 2>&1; then \
		if timeout 5 $(BIN)/python -c 'import urllib.request as u; u.urlopen("$(TORCH_INDEX)/torch/", timeout=3)' 2>/dev/null; then \
			echo "Installing the CPU build of $$torch"; \
			$(BIN)/python -m pip install --quiet --index-url "$(TORCH_INDEX)" "$$torch"; \
		else \
			echo "$(TORCH_INDEX) cannot be reached: taking $$torch from the usual index"; \
		fi; \
	fi
	@touch $@

COMPILED := setup.py $(wildcard mcts_core/kernels/*.cpp mcts_core/kernels/*.h) \
	$(addprefix mcts_core/search/,tree.py selection.py backup.py width.py)

$(VENV)/.installed: $(VENV)/.torch $(COMPILED)
	@echo "Installing mcts-serve and what it needs"
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-eval: $(VENV)/.torch $(COMPILED)
	@echo "Installing mcts-serve and what its evaluation needs"
	@$(BIN)/python -m pip install --quiet --editable '.[eval]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: $(VENV)/.torch $(COMPILED)
	@echo "Installing mcts-serve and what its tests need"
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.installed
