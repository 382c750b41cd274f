# make train: everything from a demo corpus to a linear probe.  make test: the tests.  make help: all targets.
PYTHON ?= python3
# The requirements to install: LIST=requirements-cuda12.txt for a driver that is too old for CUDA 13.
LIST ?= requirements.lock
DRIVER := /proc/driver/nvidia/version
BIN := .venv/bin
DEMO := data/demo
RUN := runs/quickstart

.DEFAULT_GOAL := help
.PHONY: help setup train test lint lock docs clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1	\2/'

setup: .venv/installed ## create .venv and install the packages of requirements.lock

train: $(DEMO)/shards/manifest/meta.json ## demo corpus, shards, training, linear probe (4 to 6 minutes on 2 cores)
	$(BIN)/torchrun --standalone --nproc_per_node=1 train.py --config configs/quickstart.yaml --resume auto run_dir=$(RUN)
	$(BIN)/python evaluate.py --checkpoint $(RUN) --protocol linear --data $(DEMO)/shards --label kind,speed
	@echo "run folder: $(RUN)"

test: .venv/installed-tests ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

lint: .venv/installed-tests ## check style with ruff, types with mypy, imports with import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	PYTHONPATH=. $(BIN)/lint-imports --no-logo --no-cache

lock: .venv/installed-tests ## pin requirements.txt and its dependencies in requirements.lock, with hashes
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --only-binary :all: --emit-build-options requirements.txt -o requirements.lock

docs: .venv/installed-docs ## build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean: ## remove .venv; keep data and runs
	rm -rf .venv

.venv/installed: $(LIST)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed, $$($(PYTHON) --version) was found: make PYTHON=python3.11 ..."; exit 1; }
	@echo "Installing $(LIST) into .venv: about 4.3 GB to download, 8.4 GB on disk"
	@test -e $(DRIVER) || \
	  echo "No NVIDIA driver here: everything will run on the CPU. For a smaller installation see docs/running.md"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet $(if $(filter %.lock,$(LIST)),--require-hashes) -r $(LIST)
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
