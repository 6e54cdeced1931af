# Every target makes the environment it needs: .venv, once. What that takes: python3 >= 3.11 with venv, a package index,
# about 6 GB of disk. No compiler, no GPU.
#   make demo          a strange volume, ten clicks, adaptation, a table and a figure: three minutes on 2 cores
#   make test          the tests; test-long runs those that take ten seconds and more, test-slow those of minutes
#   make test-gpu      those that need CUDA; the others do not see a GPU
#   make test-faults   a run killed at 50 random moments and resumed: it ends as if nothing had happened; and some 1500
#                      damaged and hostile files: refused, or read rightly; minutes
#   make benchmark     docs/PERFORMANCE.md on this machine, without its longest tables: about 11 minutes
#   make benchmark-gpu the part of it that needs CUDA: 8 minutes at most
#   make lint          ruff, mypy, import-linter, the plugin's manifest; format mends what ruff can
#   make install       only the environment; PYTHON=python3.12 picks another interpreter
#   make audit         ask the package index's list of known vulnerabilities about all of constraints.txt
#   make constraints   resolve constraints.txt anew, after a change in pyproject.toml
#   make clean         back to a fresh clone, except for datasets/ and output/

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# uv does not read pip's configuration: hand on the index that pip is told to use, if any.
PIP_INDEX = $${PIP_INDEX_URL:-$$($(BIN)/pip config get global.index-url 2>/dev/null)}
UV        = UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$(PIP_INDEX)}" UV_HTTP_TIMEOUT=300 $(BIN)/uv pip
INSTALL   = $(UV) install --python $(BIN)/python --no-build-isolation
HASHED    = --require-hashes --requirement

# Upstream's Python files from the package index, without the C++ operators, whose sources are not there.
# It asks for versions of 2021 (hence --no-deps) and builds with setuptools of 77 to 80, but not beside "wheel".
DETECTRON2 = pb1-detectron2==0.6 --hash=sha256:5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29
SKIP_BUILD = --no-deps -C=--global-option=build_py -C=--build-option=--skip-build

.PHONY: help demo test test-long test-slow test-gpu test-faults benchmark benchmark-gpu lint format install venv constraints audit clean

help:
	@sed -n 's/^#  //p' Makefile

demo: $(STAMP)
	$(BIN)/prompt-das demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not long"

test-long: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "long and not slow"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu

test-faults: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow" --log-cli-level=INFO \
	    tests/robustness tests/engine/test_launch.py

benchmark: $(STAMP)
	$(BIN)/python -m benchmarks model --threads 1 --size quick --output output/benchmark/model.json
	$(BIN)/python -m benchmarks step --threads 1 --size quick --output output/benchmark/step.json
	$(BIN)/python -m benchmarks metrics --output output/benchmark/metrics.json
	$(BIN)/python -m benchmarks window --threads 1 --output output/benchmark/window.json
	$(BIN)/python -m benchmarks loader --output output/benchmark/loader.json
	$(BIN)/python -m benchmarks volume --output output/benchmark/volume.json
	$(BIN)/python -m benchmarks predictor --size quick --output output/benchmark/predictor.json

benchmark-gpu: $(STAMP)
	$(BIN)/python -m benchmarks gpu --output output/benchmark/gpu.json --document docs/PERFORMANCE.md

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/npe2 validate prompt_das/napari.yaml

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

install venv: $(STAMP)

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "prompt_das needs Python 3.11 or newer, '$(PYTHON)' is not: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV) || \
	    { echo "Python's venv module is missing: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
	@sed -n -E '/^(uv|setuptools)==/,/[^\]$$/p' constraints.txt >$(VENV)/first.txt
	$(BIN)/pip install --quiet $(HASHED) $(VENV)/first.txt

# Nothing is installed whose SHA-256 is not the one that was written down when constraints.txt was made. An editable
# package has none: it comes after all that it needs, and --no-index, so that nothing can come with it.
# What is there as sources only is built first: setuptools runs plugins of what else is installed, whole or half.
# The last import leaves bytecode, even where the environment asks for none: without it each start takes twice the time.
# The stamp comes last, so that an interrupted installation goes on where it stopped.
$(STAMP): pyproject.toml setup.py constraints.txt | $(BIN)/uv
	@echo "Installing into $(VENV): about 3 GB to download the first time"
	@sed -n -E '/^(antlr4-python3-runtime|fvcore|iopath)==/,/[^\]$$/p' constraints.txt >$(VENV)/sources.txt
	$(INSTALL) --no-deps $(HASHED) $(VENV)/sources.txt
	$(INSTALL) --no-build $(HASHED) constraints.txt
	$(INSTALL) --no-index --editable ".[dev]" || \
	    { echo "constraints.txt lacks what pyproject.toml asks for: make constraints" >&2; exit 1; }
	@$(BIN)/python -c 'import detectron2' 2>/dev/null || \
	    { echo "$(DETECTRON2)" | $(INSTALL) $(SKIP_BUILD) $(HASHED) -; }
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -c 'import prompt_das'
	@touch $@

constraints: $(BIN)/uv
	$(UV) compile --quiet --universal --python-version 3.11 --custom-compile-command "make constraints" --no-annotate \
	    --generate-hashes --extra dev pyproject.toml --output-file constraints.txt

# In an environment of its own, since it brings two dozen packages along.
audit: $(BIN)/uv
	UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$(PIP_INDEX)}" $(BIN)/uv tool run --python $(BIN)/python pip-audit \
	    --requirement constraints.txt --require-hashes --disable-pip --strict --progress-spinner off

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find prompt_das tests tools benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
