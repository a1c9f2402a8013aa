# make setup   a virtual environment in .venv, with the pinned and hashed dependencies and the command `els`
# make up      the service and the servers that it needs, started; says where everything is
# make demo    early content, its registration, repeats and excess, live on the running stack
# make down    everything that `make up` started, stopped; the data stays
# make test    the tests that need only the embedded servers, at most five minutes (make test ARGS="-k relay" for some)
# make test-all   all tests, also on Apache Kafka, over TLS, with promtool and TypeScript, at most 20 minutes; what CI runs
# make coverage   the lines that the last `make test-all` did not run, by package; fails below the minimum
# make bench   what it costs, measured: make bench ARGS=database, ARGS=all, ARGS="whole --pods 2"; see benchmarks/
# make lint    ruff, mypy, import rules, squawk on the migrations, yamllint, shellcheck, drift of what `make docs` makes
# make docs    the documents that are made from the code: AsyncAPI, the table of settings
# make prove   the long form of what tries to break the promises, hours if wanted: make prove ARGS="faults --minutes 60"
# make audit-dependencies   known vulnerabilities of what the service runs with (needs an advisory service)
# make sbom    a software bill of materials of it, CycloneDX, in .local/sbom.json
# make image   the container image, labelled with its version and revision (needs a Docker engine)
# make lock    new pins in requirements/, after a change of pyproject.toml
# make clean   `make down`, then the data and the virtual environment thrown away

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup up demo down test test-all coverage bench prove lint lint-types lint-rest docs lock audit-dependencies sbom image clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

help:
	@sed -n '/^# make/ { s/^# //; p }' Makefile

setup: $(VENV)/installed

# Made again when the pins change, or when its Python is gone (the checkout was moved, Python was upgraded).
# The stamp is written last, so that an interrupted installation is not taken for a whole one.
ifneq ($(shell $(BIN)/python -c 'print("alive")' 2>/dev/null),alive)
.PHONY: $(VENV)/installed
endif

$(VENV)/installed: requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 14))' \
		|| echo "$(PYTHON) is newer than Python 3.13, the newest that is tested" >&2
	@echo "Installing into $(VENV) (a minute at most, once)"
	@$(BIN)/python -c '' 2>/dev/null || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --only-binary :all: --requirement requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-index --no-deps --no-build-isolation --editable .
	@touch $@

up: setup
	@$(BIN)/python -m deploy.local up

demo: setup
	@$(BIN)/python -m deploy.local demo

down:
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m deploy.local down; else echo "Nothing was set up here."; fi

# Side by side, five at a time on two processors: tests wait for half of their time. One at a time: ARGS="-n 0".
PARALLEL := -n auto --dist loadgroup

test: setup
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

# With ARGS, `make test-all` may run a few tests only, and measures nothing.
MEASURED := $(if $(ARGS),,--cov --cov-report= -p tests.support.measured)

test-all: $(VENV)/with-node
	@$(BIN)/python -m pytest $(PARALLEL) --everything $(MEASURED) $(ARGS)
	@$(if $(ARGS),:,$(MAKE) --no-print-directory coverage)

$(VENV)/with-node: $(VENV)/installed requirements/node.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --only-binary :all: --requirement requirements/node.txt
	@touch $@

# The minimum, in per cent of the lines of service/<package>.
COVERAGE_MINIMUM := domain:97 intake:96 relay:93 recovery:93

coverage: setup
	@status=0; for each in $(COVERAGE_MINIMUM); do \
		$(BIN)/python -m coverage report --include="service/$${each%:*}/*" --fail-under=$${each#*:} || status=1; \
	done; exit $$status

bench: $(VENV)/benched
	@$(BIN)/python -m benchmarks $(or $(ARGS),--help)

$(VENV)/benched: $(VENV)/installed requirements/bench.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --only-binary :all: --requirement requirements/bench.txt
	@touch $@

prove: setup
	@$(BIN)/python -m tests.prove $(ARGS)

# mypy takes as long as all else together.
lint: setup
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint-types lint-rest

lint-types:
	$(BIN)/mypy

lint-rest:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m migrations.lint
	$(BIN)/yamllint --strict --config-data '$(YAML)' deploy .github .pre-commit-config.yaml
	$(BIN)/shellcheck .ci/run
	$(BIN)/python -m docs.generate --check
	$(BIN)/python -m docs.words
	@$(BIN)/python -m pytest --quiet --no-header tests/unit/docs/test_docs.py tests/unit/deploy/test_kubernetes.py tests/unit/deploy/test_compose.py

docs: setup
	@$(BIN)/python -m docs.generate

# What a formatter would do; not what a long query or an address needs.
YAML := {extends: default, rules: {document-start: disable, line-length: {max: 140}, \
	braces: {max-spaces-inside: 1}, comments: {min-spaces-from-content: 1}}}

# --universal: one file for every Python and platform that we run on. No registry is named in the files.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock" $(ARGS)

lock: setup
	$(LOCK) pyproject.toml --output-file requirements/runtime.txt
	$(LOCK) pyproject.toml --extra otel --constraint requirements/runtime.txt --output-file requirements/otel.txt
	$(LOCK) pyproject.toml --group dev --constraint requirements/runtime.txt --output-file requirements/dev.txt
	$(LOCK) --group pyproject.toml:audit --output-file requirements/audit.txt
	$(LOCK) --group node --output-file requirements/node.txt
	$(LOCK) --group bench --constraint requirements/dev.txt --output-file requirements/bench.txt

# The pins of the service alone, beside the tools that look at them.
AUDIT := .local/audit

$(AUDIT)/installed: requirements/audit.txt requirements/runtime.txt | setup
	@for part in audit runtime; do \
		$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(AUDIT)/$$part; \
		$(BIN)/uv pip install --quiet --python $(AUDIT)/$$part/bin/python \
			--require-hashes --only-binary :all: --requirement requirements/$$part.txt; \
	done
	@touch $@

# --strict: what the advisory service does not know is a failure, not a pass.
audit-dependencies: $(AUDIT)/installed
	$(AUDIT)/audit/bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes \
		--requirement requirements/runtime.txt $(ARGS)

# The tool reads the version from pyproject.toml only, so it gets a copy that states it.
sbom: $(AUDIT)/installed
	@sed 's/^dynamic = .*/version = "$(VERSION)"/' pyproject.toml > $(AUDIT)/pyproject.toml
	@$(AUDIT)/audit/bin/cyclonedx-py environment $(AUDIT)/runtime/bin/python --pyproject $(AUDIT)/pyproject.toml \
		--output-reproducible --output-file .local/sbom.json $(ARGS)
	@echo "CycloneDX: .local/sbom.json"

IMAGE ?= essay-lifecycle-service
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' service/__init__.py)
# A checkout that differs from its commit says so.
REVISION = $(shell git describe --always --abbrev=40 --dirty --exclude '*')

image:
	docker build --file deploy/Dockerfile --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
		--tag $(IMAGE):$(VERSION) --tag $(IMAGE) $(ARGS) .

clean:
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m deploy.local clean; fi
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
