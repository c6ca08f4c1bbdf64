# Every target sets up first what it needs: .venv, with the versions of constraints.txt.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
VERSION := import sys; print(sys.version_info[:2])
READY_DEMO := $(VENV)/.ready-demo
READY := $(VENV)/.ready
READY_DOCS := $(VENV)/.ready-docs
# A package a line as pip comes to it, so that minutes of set-up are no silence.
SHOWN := awk '/^(Collecting|Obtaining)/ { print "  " $$2; fflush() } /^Installing|ERROR|error:/ { print substr($$0, 1, 100); fflush() }'
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --constraint constraints.txt --editable
# Two processes, each with one Ray for all of its tests that need it.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup
# The laws once more, where they need no Ray, as on a machine with AVX2 and nothing newer: there a
# product's last bits depend on a row's place in its tile.
OLDER := OPENBLAS_CORETYPE=Haswell ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
LAWS = $(foreach name,laws stage_laws graph static_job neighbors clusters classify,$(wildcard tests/*/test_$(name).py))

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check docs bench clean

# An environment that is too old, broken, or of another Python than PYTHON names is made anew, before
# any target looks what is there.
ifneq ($(filter-out help clean,$(MAKECMDGOALS)),)
ifneq ($(wildcard $(VENV)),)
FITS := $(shell $(BIN)/python -c '$(NEW_ENOUGH)' 2>/dev/null && echo yes)
ifneq ($(origin PYTHON),file)
FITS := $(and $(FITS),$(filter yes,$(shell test "$$($(BIN)/python -c '$(VERSION)')" = "$$($(PYTHON) -c '$(VERSION)')" && echo yes)))
endif
ifeq ($(FITS),)
$(info $(VENV) is of another Python, or broken: it is made anew)
$(shell rm -rf $(VENV))
endif
endif
endif

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	@$(PYTHON) -c '$(NEW_ENOUGH)' 2>/dev/null || { echo "embed-ops needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo not there). Name another: make $(firstword $(MAKECMDGOALS)) PYTHON=python3.12" >&2; exit 2; }
	@echo "1. a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(READY_DEMO): pyproject.toml constraints.txt | $(BIN)/python
	@echo "2. what embed-ops and its demo need, about 2 GB"
	@$(INSTALL) '.[demo,where]' | $(SHOWN)
	@touch $@

$(READY): $(READY_DEMO)
	@echo "3. what its tests and checks need"
	@$(INSTALL) '.[dev]' | $(SHOWN)
	@touch $@

$(READY_DOCS): $(READY)
	@echo "4. what its site needs"
	@$(INSTALL) '.[docs]' | $(SHOWN)
	@touch $@

setup: $(READY)  ## make .venv and install all but what the site needs

demo: $(READY_DEMO)  ## embed real docstrings with a real model, verify, search
	$(BIN)/embed-ops demo

test: $(READY)  ## all tests but the long ones
	$(PYTEST) -m "not slow"

test-all: $(READY)  ## all tests, the laws as on an older machine too, a record of injected faults
	mkdir -p build
	$(PYTEST) --junitxml=build/test-all.xml
	$(OLDER) $(PYTEST) -m "not ray" $(LAWS)
	$(BIN)/python bench/faults.py build/test-all.xml

check: $(READY)  ## style, types, import directions, links and widths of the pages
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --quiet tests/test_docs.py

docs: $(READY_DOCS)  ## build the site from docs/ into build/site
	$(BIN)/mkdocs build --strict

bench: $(READY)  ## measure, and append records to bench/results/
	$(BIN)/python bench/text.py
	$(BIN)/python bench/scaling.py
	$(BIN)/python bench/memory.py
	$(BIN)/python bench/plan.py
	$(BIN)/python bench/objects.py
	$(BIN)/python bench/stages.py

clean:  ## remove what the demo and the tools made
	rm -rf demo .mypy_cache .ruff_cache .pytest_cache .hypothesis build
