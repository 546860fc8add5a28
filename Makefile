# `make demo` works from a fresh clone with Python 3.11 or newer and make alone; `make test` also needs
# Node.js, for the specs.

PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
# uv installs everything; where there is none (or one too old for dependency groups), one of our own.
UV := $(or $(shell uv pip install --help 2>/dev/null | grep -q -- --group && command -v uv),.venv-uv/bin/uv)
BIN := .venv/bin

# What is set in some containers makes each process compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo typescript fuzz test quick quick-stores quick-others lint contract guards specs specs-deep traces mutants crewai peers torture lower-bounds bench docs matrix lock clean venv servers

demo: .venv/demo.stamp ## agents destroy each other's work, and Interlock keeps it
	$(BIN)/interlock simulate --plot demo.svg

# Tests wait for disks and servers as long as they compute: two processes a core.
AT_ONCE := -n $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN)) --dist loadfile --no-loadscope-reorder

test: .venv/dev.stamp servers formal/node_modules/.stamp clients/typescript/dist/.stamp ## everything: lint, strict types, every test, the specs
	$(MAKE) lint
	$(BIN)/python -m pytest $(AT_ONCE)
	$(MAKE) specs

quick: .venv/dev.stamp ## for daily work, under a minute: most of SQLite, a slice of PostgreSQL and Redis
	$(MAKE) --no-print-directory -j2 --output-sync=target quick-stores quick-others

QUICK := $(BIN)/python -m pytest -m "not slow" --hypothesis-profile=quick -p no:cacheprovider

quick-stores:
	$(QUICK) tests/contract tests/backends/sqlite tests/files

quick-others: lint
	$(QUICK) tests/core tests/cli tests/test_*.py

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/unasync.py --check
	$(BIN)/lint-imports --no-logo >.venv/imports.log || { cat .venv/imports.log; exit 1; }
	$(BIN)/mypy
	$(BIN)/basedpyright --level error

STORE :=
OPTIONS :=

contract: .venv/dev.stamp ## the contract suite on a store of yours: make contract STORE=postgresql://...
	@test -n "$(STORE)" || { echo "Name the store: make contract STORE=postgresql://..." >&2; exit 1; }
	$(BIN)/python -m pytest tests/contract --store "$(STORE)" $(OPTIONS)

# TESTS='tests/core tests/adapters' VERSIONS='--python 3.12' to run less
matrix: servers | $(filter .venv-uv/%,$(UV)) ## every test on Python 3.11, 3.12 and 3.13, those that are found
	UV=$(UV) $(PYTHON) -m tools.matrix $(VERSIONS) $(AT_ONCE) $(TESTS)

REDIS :=
POSTGRES :=

guards: .venv/dev.stamp ## the tests of guards on servers of yours: make guards REDIS=redis://... POSTGRES=postgresql://...
	INTERLOCK_TEST_REDIS="$(REDIS)" INTERLOCK_TEST_POSTGRES="$(POSTGRES)" \
		$(BIN)/python -m pytest tests/guards $(OPTIONS)

specs: formal/node_modules/.stamp ## every spec holds, and fails without any one of its guards
	@$(NEEDS_NODE)
	node formal/check.mjs

specs-deep: formal/node_modules/.stamp ## the same with larger bounds: minutes
	@$(NEEDS_NODE)
	node formal/check.mjs --deep

traces: .venv/dev.stamp servers formal/node_modules/.stamp ## 200 runs of real processes on each store, checked against a spec
	INTERLOCK_TRACES=200 $(BIN)/python -m pytest -o faulthandler_timeout=0 tests/processes/test_traces.py

mutants: .venv/dev.stamp servers ## each guard taken out of the code, one at a time, turns a test red: minutes
	$(BIN)/python -m tests.mutants

# CrewAI and openai-agents need different versions of one library.
crewai: .venv-crewai/dev.stamp servers ## the CrewAI adapter, its page and its example, in an environment of their own
	.venv-crewai/bin/python -m pytest tests/crewai

define NEEDS_NODE
command -v node >/dev/null && command -v npm >/dev/null || { \
	echo "The specs in formal/ need Node.js 18 or newer: node and npm on the PATH." >&2; exit 1; }
endef

formal/node_modules/.stamp: formal/package.json formal/package-lock.json
	@$(NEEDS_NODE)
	cd formal && npm ci --silent --no-audit --no-fund
	@touch $@

clients/typescript/node_modules/.stamp: clients/typescript/package.json clients/typescript/package-lock.json
	@$(NEEDS_NODE)
	cd clients/typescript && npm ci --silent --no-audit --no-fund
	@touch $@

clients/typescript/dist/.stamp: clients/typescript/node_modules/.stamp clients/typescript/src/interlock.ts clients/typescript/tsconfig.json
	cd clients/typescript && npm run --silent build
	@touch $@

typescript: .venv/dev.stamp clients/typescript/dist/.stamp ## the TypeScript client, and its story with 100 agents
	INTERLOCK_AGENTS=100 $(BIN)/python -m pytest tests/server/test_typescript.py

fuzz: .venv/dev.stamp ## schemathesis covers the schemas of the service's operations: minutes
	INTERLOCK_FUZZ=coverage,fuzzing $(BIN)/python -m pytest tests/server/test_http_fuzzed.py

OPERATIONS := 1000000
SEED := 1

torture: .venv/dev.stamp ## operations of many processes on each store while faults strike: an hour or more
	$(BIN)/python -m tests.torture --operations $(OPERATIONS) --seed $(SEED)

peers: .venv/dev.stamp .venv-peers/dev.stamp .venv-crewai/dev.stamp ## suites that others wrote, unmodified, against the adapters: half an hour
	$(BIN)/python -m tests.peers --jobs 2

lower-bounds: .venv/dev.stamp ## each extra at the oldest versions that pyproject.toml allows: downloads, minutes
	UV=$(UV) $(BIN)/python -m tests.lower_bounds

bench: .venv/bench.stamp ## measure beside raw SQLite and rewrite benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks --write

docs: .venv-docs/docs.stamp ## build the manual into site/; every warning is an error
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --clean

# PostgreSQL and Redis come with the development packages; PgBouncer and Chromium only from the system.
servers: ## install what the tests start, where root and apt-get can
	@PATH=$$PATH:/usr/sbin; missing=; for each in pgbouncer chromium; do \
		command -v $$each >/dev/null || missing="$$missing $$each"; done; \
	test -z "$$missing" || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		DEBIAN_FRONTEND=noninteractive && export DEBIAN_FRONTEND && \
		{ apt-get install -qq -y --no-install-recommends $$missing >/dev/null 2>&1 || \
		{ apt-get update -qq && apt-get install -qq -y --no-install-recommends $$missing; } >/dev/null 2>&1; }; \
	} || echo "Not installed: apt-get install$$missing" >&2

venv: .venv/dev.stamp

define NEEDS_PYTHON
test -n "$(PYTHON)" || { \
	echo "Interlock needs Python 3.11 or newer; none was found as python3, python3.11, ..." >&2; exit 1; }
endef

.venv-uv/bin/uv: requirements.lock
	@$(NEEDS_PYTHON)
	$(PYTHON) -m venv $(@:/bin/uv=)
	sed -n '/^uv==/,/[^\\]$$/p' $< > .venv-uv/uv.lock
	.venv-uv/bin/python -m pip install --quiet --disable-pip-version-check -r .venv-uv/uv.lock
	@touch $@

.venv/bin/python .venv-crewai/bin/python .venv-docs/bin/python .venv-peers/bin/python: | $(filter .venv-uv/%,$(UV))
	@$(NEEDS_PYTHON)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(@:/bin/python=)

# Into the environment of the target, at the versions and hashes of a lock file.
INSTALL = VIRTUAL_ENV=$(CURDIR)/$(@D) $(UV) pip install --quiet --constraint $(filter %.lock,$^)

.venv/demo.stamp: pyproject.toml requirements.lock | .venv/bin/python
	$(INSTALL) --editable '.[plot]'
	@touch $@

.venv/dev.stamp: pyproject.toml requirements.lock | .venv/bin/python
	$(INSTALL) --editable . --group dev
	@touch $@ .venv/demo.stamp

.venv-crewai/dev.stamp: pyproject.toml requirements-crewai.lock | .venv-crewai/bin/python
	$(INSTALL) --editable . --group crewai
	@touch $@

# The suites that others wrote get Interlock's sources, not its install.
.venv-peers/dev.stamp: pyproject.toml requirements.lock | .venv-peers/bin/python
	$(INSTALL) --group peers
	@touch $@

.venv/bench.stamp: requirements.lock .venv/dev.stamp
	$(INSTALL) --group bench
	@touch $@

.venv-docs/docs.stamp: pyproject.toml requirements.lock | .venv-docs/bin/python
	$(INSTALL) --editable . --group docs
	@touch $@

# $(call compile,groups,file): a group may name Interlock's extras, so Interlock itself is given, too.
compile = printf -- '-e .' | $(UV) pip compile - --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-package interlock --no-header --no-annotate \
	$(if $(UPGRADE),--upgrade) $(addprefix --group ,$(1)) -o $(2)

lock: | $(filter .venv-uv/%,$(UV)) ## bring the lock files up to date; `make lock UPGRADE=1` renews every version
	$(call compile,bench dev docs peers uv,requirements.lock)
	$(call compile,crewai,requirements-crewai.lock)

clean:
	rm -rf .venv .venv-* .import_linter_cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis demo.svg formal/node_modules clients/typescript/node_modules clients/typescript/dist site
