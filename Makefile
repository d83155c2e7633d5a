# Everything runs in .venv, which the first target that needs it creates and fills.
#
#   make test EXTRAS=all           adds optional dependencies of pyproject.toml, by name
#   make demo PYTHON3=python3.12   takes another interpreter than the first that fits
#   make test MARKERS=             also runs the tests that take minutes

EXTRAS ?=
comma := ,
DEMO_EXTRAS := train
TEST_EXTRAS := dev,mesh,nufft,train,viz$(if $(EXTRAS),$(comma)$(EXTRAS))
PYTEST_FLAGS ?= -n 2
MARKERS ?= not slow

VENV := .venv
PYTHON := $(VENV)/bin/python
PYTHON3 ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

# Wheels that lie beside the checkout save a compilation; whatever pip is told elsewhere still holds.
LOCAL_WHEELS := $(wildcard ../shared/wheels)
PIP_INSTALL := $(PYTHON) -m pip install --disable-pip-version-check --constraint constraints.txt \
	$(addprefix --find-links ,$(LOCAL_WHEELS))
timed = @start=$$(date +%s) && $(2) && echo "$(1): done in $$(( $$(date +%s) - start )) s"

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint format typecheck wheel-test clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-$(DEMO_EXTRAS) $(VENV)/.native  ## Train a tiny network on procedural shapes
	$(PYTHON) examples/modelnet40.py --config examples/configs/demo.yaml

# pytest runs last, so that its closing line is the verdict. One thread per process: there are several.
test: lint typecheck $(VENV)/.native  ## Check style and types and run every test, the built wheel's included
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest $(PYTEST_FLAGS) -m '$(MARKERS)'

lint: $(VENV)/.installed-$(TEST_EXTRAS)  ## Check style and formatting
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

format: $(VENV)/.installed-$(TEST_EXTRAS)  ## Mend style and formatting where it can be done safely
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

typecheck: $(VENV)/.installed-$(TEST_EXTRAS)  ## Check the types of the library
	$(VENV)/bin/mypy

wheel-test: $(VENV)/.installed-$(TEST_EXTRAS)  ## Build the wheel and use it outside the repository
	$(VENV)/bin/pytest tests/test_package.py

clean:  ## Remove the environment, builds and caches; data and runs stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first, because the accelerators compile against it.
$(VENV)/.torch: constraints.txt
	$(if $(PYTHON3),,$(error no Python 3.11 or newer with its venv module found: make PYTHON3=...))
	$(PYTHON3) -m venv $(VENV)
	$(call timed,torch,$(PIP_INSTALL) setuptools wheel torch)
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt $(VENV)/.torch
	$(call timed,ccnn_geo[$*],$(PIP_INSTALL) --no-build-isolation --editable '.[$*]')
	@touch $@

# Compiled for the CPU of this machine. Without a compiler everything works, only slower.
$(VENV)/.native: $(wildcard ccnn_geo/ops/point_backends/native/csrc/*) $(VENV)/.torch
	-$(PYTHON) -m ccnn_geo build && touch $@
