# Everything a developer does with taut.  'make' alone lists the targets.
#
# A fresh machine needs git, make, a C compiler and Python (3.11 or later) with its headers: the rest is installed in .venv.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv build demo services test test-all check format conformance conformance-full fuzz attacks bench dist clean

# The first interpreter that runs (a shim may be there and fail) and is recent enough.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
VENV ?= .venv
PORT ?= 8765
# How many processes share the test suite. Each starts what its tests want for itself.
JOBS ?= 2
ARGS ?=
CC ?= cc
BENCH ?= ../shared/bench

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
# Files that record what is done, so that it is done again only when what it was made from has changed.
INSTALLED := $(VENV)/.installed
TESTABLE := $(VENV)/.testable
CHECKABLE := $(VENV)/.checkable
BUILT := $(VENV)/.built

NATIVE := $(shell find src/taut -name '*.pyx' -o -name '*.pxd' -o -name '*.h')
STUBBED := $(shell find src/taut -name '*.pyi' | sed 's|^src/||; s|\.pyi$$||; s|/|.|g')

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 27

# --- Set-up

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later found: install one, or name it with PYTHON=" >&2; exit 1; }
	@command -v "$(PYTHON)" >/dev/null || { echo "make: there is no $(PYTHON)" >&2; exit 1; }
	@command -v $(CC) >/dev/null || { echo "make: no C compiler: install gcc or clang, or name it with CC=" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: $(PYTHON) cannot make virtual environments: install its venv module (Debian: python3-venv)" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || \
		{ echo "make: $(PYTHON) lacks its C headers: install them (Debian: python3-dev)" >&2; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(BIN)/python pyproject.toml setup.py
	@echo "installing taut and what it needs in $(VENV)"
	@$(PIP) install --upgrade 'pip>=25.1' 'setuptools>=77' 'cython>=3.1'
	@$(PIP) install --no-build-isolation --editable '.[all]'
	@touch $@

$(TESTABLE): $(INSTALLED)
	@echo "installing what the tests need in $(VENV)"
	@$(PIP) install --group test
	@touch $@

$(CHECKABLE): $(INSTALLED)
	@echo "installing what the checks need in $(VENV)"
	@$(PIP) install --group dev
	@touch $@

$(BUILT): $(INSTALLED) $(NATIVE)
	@echo "building the native modules"
	@$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

venv: $(TESTABLE) $(CHECKABLE) ## Make .venv with taut and all tools for its development

build: $(BUILT) ## Build the native modules in place

# --- Use

demo: $(BUILT) ## Start the demonstration server, talk to it, and serve until interrupted (PORT=8765)
	@exec $(BIN)/python -m taut.cli demo --port $(PORT)

services: $(BUILT) $(TESTABLE) ## Start the real servers that the tests use (nginx, HAProxy, Chromium, proxies, Node's ws), until interrupted
	@cd tests && exec $(abspath $(BIN))/python -m services start

# --- Proof

# Without a service, the tests that want it fail and say so; the others are still worth running.
test: $(BUILT) $(TESTABLE) ## Run the test suite (ARGS='-k name -x' is handed to pytest, JOBS=2)
	-@cd tests && $(abspath $(BIN))/python -m services install
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

test-all: test ## The same on Python 3.12 and 3.13 as well, where they are found
	@for version in 3.12 3.13; do \
		found=; \
		for python in python$$version $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$version*/bin/python$$version; do \
			$$python -c "import sys; sys.exit(sys.version.split('.')[:2] != '$$version'.split('.'))" 2>/dev/null || continue; \
			found=$$python; break; \
		done; \
		if [ -z "$$found" ]; then echo "test-all: no Python $$version found, not tested on it"; continue; fi; \
		echo "test-all: Python $$version"; \
		$(MAKE) --no-print-directory test PYTHON=$$found VENV=.venv-$$version || exit 1; \
	done

check: $(BUILT) $(CHECKABLE) ## Lint, format and type checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cython-lint src
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/stubtest --concise --mypy-config-file pyproject.toml $(STUBBED)

format: $(CHECKABLE) ## Format the sources
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

conformance: $(BUILT) ## Autobahn without its largest messages (421 of 517 cases), server and client
	$(BIN)/python tests/conformance/run $(ARGS)

conformance-full: $(BUILT) ## Autobahn, all 517 cases, server and client (half an hour)
	$(BIN)/python tests/conformance/run --full $(ARGS)

fuzz: $(BUILT) $(TESTABLE) ## Property and fuzz tests with many more examples
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -k 'fuzz or properties or property' -o timeout=0 $(ARGS)

attacks: $(BUILT) $(TESTABLE) ## Attack a server, and print what it costs (nothing else should run meanwhile)
	cd tests && PYTHONPATH=. $(abspath $(BIN))/python attack_figures.py $(ARGS)

bench: ## Races against other libraries, in build/bench (nothing else should run meanwhile)
	@test -x $(BENCH)/prepare || { echo "make: no benchmarks in $(BENCH): name their folder with BENCH=" >&2; exit 1; }
	$(BENCH)/prepare build/bench .
	$(BENCH)/echo_race.py build/bench/wsload build/bench/echo.json $(ARGS)
	WSLOAD_TLS=1 $(BENCH)/echo_race.py build/bench/wsload build/bench/tls.json $(ARGS)
	WSLOAD_DEFLATE=1 $(BENCH)/echo_race.py build/bench/wsload build/bench/deflate.json --loads 20x1024x1,8x65536x1 $(ARGS)
	$(BENCH)/client_race.py build/bench/echo.json limit_echo build/bench/client.json --loads 64x1,64x32
	$(BENCH)/idle_memory.py build/bench/echo.json --n 3000 --chat 1
	$(BENCH)/idle_memory.py build/bench/deflate.json --n 2000 --chat 1 --deflate

# --- Release

dist: $(CHECKABLE) ## Build the source distribution and the wheel in dist/
	$(BIN)/python -m build

clean: ## Remove everything that was built or installed here
	rm -rf .venv .venv-* build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src -name '*.so' -delete
	find . -name __pycache__ -prune -exec rm -rf {} +
