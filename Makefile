# make train: the whole job on a demo corpus.  make test: the tests.  make help: this list.
PYTHON ?= python3
BIN := .venv/bin
DEMO := data/demo
RUN := runs/quickstart

.DEFAULT_GOAL := help
.PHONY: help setup train test lint docs clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1	\2/'

setup: .venv/installed ## make .venv and install requirements.txt

train: $(DEMO)/shards/manifest/meta.json ## demo corpus, shards, training, linear probe (4 minutes on 2 cores)
	$(BIN)/torchrun --standalone --nproc_per_node=1 train.py --config configs/quickstart.yaml --resume auto run_dir=$(RUN)
	$(BIN)/python evaluate.py --checkpoint $(RUN) --protocol linear --data $(DEMO)/shards --label kind,speed
	@echo "run folder: $(RUN)"

test: .venv/installed-tests ## run the tests
	$(BIN)/python -m pytest

lint: .venv/installed-tests ## check style with ruff, types with mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

docs: .venv/installed-docs ## build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean: ## remove the environment; data and runs stay
	rm -rf .venv

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "Python 3.10, 3.11 or 3.12 is needed, $$($(PYTHON) --version) was found: make PYTHON=python3.11 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.txt
	touch $@

.venv/installed-tests: .venv/installed requirements-test.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements-test.txt
	touch $@

.venv/installed-docs: .venv/installed requirements-docs.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements-docs.txt
	touch $@

$(DEMO)/videos/labels.csv: | .venv/installed
	$(BIN)/python -m pipeline.demo $(DEMO)/videos --videos 800

$(DEMO)/shards/manifest/meta.json: $(DEMO)/videos/labels.csv
	$(BIN)/python -m pipeline.prepare $(DEMO)/videos $(DEMO)/shards --labels $(DEMO)/videos/labels.csv \
	  storage.codec=jpeg storage.short_side=80
