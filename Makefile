# Every target builds the virtual environment it needs when it is missing or out of date.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp
FILES  ?= 60
SEED   ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench requirements clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml requirements/dev.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## Land files in a real stack and compare fct_sales with what was expected (FILES=60 SEED=1)
	@$(BIN)/lotus-lake demo --files $(FILES) --seed $(SEED)

test: $(STAMP) ## Run the tests on real servers (at most 10 minutes)
	$(BIN)/pytest tests --ignore=tests/benchmarks

lint: $(STAMP) ## ruff, pyright strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## Run the benchmarks
	$(BIN)/pytest tests/benchmarks -s -p no:cacheprovider --timeout=3600

requirements: ## Pin and hash the dependencies into requirements/ (needs uv, which pip installs)
	$(PYTHON) -m venv $(VENV)-uv && $(VENV)-uv/bin/pip install --quiet uv
	$(VENV)-uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header pyproject.toml -o requirements/run.txt
	$(VENV)-uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --extra embedded --extra dev pyproject.toml -o requirements/dev.txt
	rm -rf $(VENV)-uv

clean: ## Remove the environment and the caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache build dist
