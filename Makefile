# What a newcomer types. Every target sets up what it needs first; nothing outside this folder is changed
# except system libraries, and those only when root.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A machine without a GPU saves gigabytes with: make setup PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
DATA ?= synthetic
ONLY ?=
KEEP ?=
TEST_ARGS ?=
BACKEND_TESTS := tests/models/sparse/test_parity_minkowski.py tests/models/sparse/test_backends.py \
	tests/pipeline/training/test_sparse_backend.py
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint bench minkowski parity bench-sparse clean FORCE

help:  ## this list
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

setup: $(VENV)/.complete  ## create .venv with everything pinned in constraints.txt, and the system libraries

$(VENV)/.complete: pyproject.toml setup.py constraints.txt tools/system_libraries.sh
	@sh tools/system_libraries.sh
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "ssl3d needs Python 3.10 or newer; name one with: make setup PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the packages of constraints.txt into $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup  ## the whole chain on generated streets: a table, pictures and curves in demo/ (about 10 minutes)
	@$(BIN)/ssl3d demo --out demo

test: setup lint  ## everything that has to pass before a change lands
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(TEST_ARGS)

test-all: setup lint  ## the slow tests too, and parity with MinkowskiEngine where `make minkowski` has built it
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(TEST_ARGS)
	@if [ -x .venv-minkowski/bin/ssl3d ]; then .venv-minkowski/bin/python -m pytest $(BACKEND_TESTS); \
	else echo "Skipped: parity with MinkowskiEngine, in an environment of its own that \`make minkowski\` builds"; fi

lint: setup  ## style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup  ## claims of speed, as ratios against a named rival in the same run (the sparse engine's: bench-sparse)
	@$(BIN)/ssl3d bench stages --json benchmarks/results/stages.json
	@$(BIN)/ssl3d bench methods --json benchmarks/results/methods.json

minkowski: setup  ## .venv-minkowski: MinkowskiEngine 0.5.4 (CPU) from its source package, spconv and ssl3d (5 minutes)
	@PIP_ARGS="$(PIP_ARGS)" sh tools/build_minkowski.sh $(PYTHON)

parity: minkowski  ## how far the sparse engine is from MinkowskiEngine, written to benchmarks/results
	@.venv-minkowski/bin/ssl3d bench parity --json benchmarks/results/parity.json

bench-sparse: minkowski  ## the sparse engine against MinkowskiEngine and spconv (about 40 minutes), into its README
	@$(BIN)/ssl3d bench sparse --json benchmarks/results/sparse.json --docs models/sparse/README.md

reproduce-%: setup FORCE  ## published tables: make reproduce-ddsemi DATA=/data/kitti ONLY=table3 (DATA=synthetic: in miniature)
	@$(BIN)/python -m ssl3d.benchmarks.reproduce $* --data "$(DATA)" --only "$(ONLY)" $(if $(KEEP),--keep)

FORCE:

clean:  ## remove what the targets above made, environments included (never workspace/ and reproduce/: they hold runs)
	rm -rf $(VENV) .venv-minkowski demo workspace-sparse build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .grimp_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
