# Two commands are enough: `make run` and `make test`. `make help` lists the others.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# the first Python from 3.11 to 3.13 that is there; PYTHON=/path/to/python chooses another
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
OLDEST := .venv-oldest
BENCH := .venv-bench
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLDEST_READY := $(OLDEST)/.ready
BENCH_READY := $(BENCH)/.ready
# The last digit decides which pixel gets an electron more, and where an alignment ends: recorded values are those of
# AVX2, which every such processor can be held to. It costs no time. `mesotomo run` by itself takes what there is.
ifneq (,$(shell grep -m1 -o avx512f /proc/cpuinfo 2>/dev/null))
export OPENBLAS_CORETYPE := Haswell
export NPY_DISABLE_CPU_FEATURES := X86_V4 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR
endif
# orix has numba cache what it compiles, and two processes that compile it at once leave a cache that crashes every later
# one (numba/numba#10128, open): so one does it alone, as soon as orix is installed
COMPILE_ORIX := -c 'from orix.quaternion import Rotation; from orix.vector import Vector3d; \
	~(Rotation.identity() * Rotation.identity()) * Vector3d.xvector()'
# Where containers set this, every process would compile every library anew: five seconds, hundreds of times
unexport PYTHONDONTWRITEBYTECODE
NOTEBOOKS := $(wildcard notebooks/[0-9][0-9]_*.py)

.PHONY: help setup run test test-oldest lab notebooks paper bench calibrate gallery lint

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## make .venv with the pinned requirements and the package

# pip would compile every file of every package, one after the other; Python compiles what it imports
$(READY): requirements.lock pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python from 3.11 to 3.13 is found. Install one: apt-get install python3.11 python3.11-venv," >&2; \
		echo "or say where it is: make setup PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) cannot make environments. Install that: apt-get install python3-venv" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python $(COMPILE_ORIX)
	@touch $@

# small leaves half of two cores idle: the needle runs beside it and reports when both are done
run: setup  ## run the samples small (the twin) and needle (a real series)
	@mkdir -p runs; $(BIN)/mesotomo run needle --out runs/needle >runs/needle.log 2>&1 & needle=$$!; \
	$(BIN)/mesotomo run small --out runs/small || { kill $$needle; exit 1; }; \
	wait $$needle || { cat runs/needle.log; exit 1; }; cat runs/needle.log
	@$(BIN)/python -m mesotomo_utils.workflow.summary runs/needle runs/small

test: setup  ## every test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-oldest: $(OLDEST_READY)  ## the tests, without the slow ones, on the lowest versions allowed
	$(OLDEST)/bin/python -m pytest -n 2 --dist loadfile -m "not slow"

$(OLDEST_READY): pyproject.toml | setup
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(OLDEST)
	$(BIN)/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct \
		-r pyproject.toml --extra dask --extra dev
	$(BIN)/uv pip install --quiet --python $(OLDEST)/bin/python --no-deps --no-build-isolation -e .
	$(OLDEST)/bin/python $(COMPILE_ORIX)
	@touch $@

notebooks: setup  ## make the paired .ipynb from the .py
	$(BIN)/jupytext --quiet --sync $(NOTEBOOKS)

lab: notebooks  ## JupyterLab with the notebooks
	$(BIN)/jupyter lab --notebook-dir=. notebooks/00_sample.ipynb

paper: setup  ## the twin of the paper, 633 dots
	$(BIN)/mesotomo run paper --out runs/paper
	$(BIN)/mesotomo check runs/paper

# beside the peers first, what takes longest last: the intervals on 200 twins, most of an hour of two cores
bench: $(BENCH_READY)  ## ours beside every peer that can be had, what dots and tomograms cost, what intervals hold
	$(BENCH)/bin/mesotomo run small --out runs/bench --to 01
	$(BIN)/python benchmarks/gpu.py  # CuPy is in .venv, where somebody wants it
	$(BIN)/python benchmarks/gpu_steps.py paper
	@for run in reconstruction.py few_tilts.py "centres_peers.py runs/bench" alignment_etspy.py dots_scaling.py \
		scaling.py tables_scaling.py interval_coverage.py; do \
		echo "== benchmarks/$$run"; $(BENCH)/bin/python benchmarks/$$run; done

# The peers stand beside the pinned versions in an environment of their own: .venv stays as it is locked. TomoPy has no
# wheel; reconstruction.py names what is absent.
$(BENCH_READY): requirements.lock pyproject.toml | setup
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(BENCH)
	$(BIN)/uv pip install --quiet --python $(BENCH)/bin/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BENCH)/bin/python -r pyproject.toml --extra peers
	$(BIN)/uv pip install --quiet --python $(BENCH)/bin/python --no-deps --no-build-isolation -e .
	$(BENCH)/bin/python $(COMPILE_ORIX)
	@touch $@

calibrate: setup  ## the twins that the constants in the package were chosen on and are judged by, offline
	$(BIN)/python benchmarks/calibrate_necks.py
	$(BIN)/python benchmarks/neck_pull.py q1 q2 q3 q10 q11 q12 q14 q16
	$(BIN)/python benchmarks/limited_tilts.py runs/limited_tilts
	$(BIN)/python benchmarks/calibrate_errors.py runs/*/ runs/limited_tilts/r_*
	$(BIN)/python benchmarks/other_twin.py q12 q17 q18 q20 q22 q23 --out runs/other  # of another hand: judged by
	$(BIN)/python benchmarks/alignment_twins.py small paper
	$(BIN)/python benchmarks/lines_and_tilts.py  # chooses nothing: why {220} stands above the simulation

# which run the gallery of the README is copied from
FROM ?= runs/paper

gallery: setup  ## copy the figures of a run (FROM=runs/paper) to figures/
	$(BIN)/python -m mesotomo_utils.workflow.gallery $(FROM) figures

lint: setup
	$(BIN)/ruff check .
