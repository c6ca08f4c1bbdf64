# Every target sets up first what it needs: .venv, with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DOCS := $(VENV)/.ready-docs

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check docs bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

$(READY_DOCS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $(READY_DOCS)

setup: $(READY)  ## make .venv and install everything

demo: $(READY)  ## embed real docstrings with a real model, verify, search
	$(BIN)/embed-ops demo

test: $(READY)  ## all tests but the long ones
	$(BIN)/python -m pytest -m "not slow"

test-all: $(READY)  ## all tests, and a record of what came of each injected fault
	mkdir -p build
	$(BIN)/python -m pytest --junitxml=build/test-all.xml
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
