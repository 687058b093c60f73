# One command checks everything: `make test`. `make help` lists the rest.
# PYTHON=python3.12 picks the interpreter; SYSTEM=no leaves apt alone; ARGS=... reaches pytest,
# `lakefeed demo` and the benchmarks.
PYTHON ?= python3
SYSTEM ?= yes
# Three test processes on a two-core machine: much of what they do is waiting, for timeouts, guests
# and daemons, and somebody computes meanwhile.
WORKERS ?= 3
ARGS ?=
export PYTHON SYSTEM
# Images of Python often forbid it: then each of the commands that tests start compiles lakefeed anew.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

# The steps of one target wait for each other: system packages, then the environment, then checks.
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help venv system test quick lint types format demo bench docs image clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv:  ## create or refresh .venv; quick when nothing changed
	@.ci/system build
	@.ci/venv

system:  ## install the system packages the tests use, where root and apt-get are there
	@.ci/system all

# The tests run even after ruff or mypy complained: one run shows everything that is wrong. Both work
# beside the tests, on one processor and for a minute, and are shown behind them.
test: system venv  ## everything: packages, environment, ruff, mypy, all tests
	@log=$$(mktemp); $(MAKE) --no-print-directory -k lint types >"$$log" 2>&1 & checks=$$!; \
	trap 'kill $$checks; rm -f "$$log"; exit 130' INT TERM; \
	$(PYTEST) tests $(ARGS); tests=$$?; \
	wait $$checks; checks=$$?; cat "$$log"; rm -f "$$log"; \
	if [ $$checks -ne 0 ]; then echo "test: ruff or mypy failed, see above"; fi; \
	[ $$tests -eq 0 ] && [ $$checks -eq 0 ]

quick: venv lint types  ## the same without the slow tests and the system packages
	$(PYTEST) -m "not slow" tests $(ARGS)

lint: venv  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv  ## mypy, strict
	$(BIN)/mypy

format: venv  ## rewrite the sources the way ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: venv  ## regenerate docs/CLI.md
	$(BIN)/python docs/generate_cli.py

demo: venv  ## real images in, a trained model out
	$(BIN)/lakefeed demo $(ARGS)

bench: venv  ## run the benchmarks
	$(BIN)/python -m benchmarks $(ARGS)

# BUILDER=docker|podman|buildah (default: the first that is there), BASE=another base image, TARGET=mount,
# EXTRAS=service,..., TAG=name.
BUILDER ?= $(firstword $(foreach one,docker podman buildah,$(if $(shell command -v $(one)),$(one))))
TARGET ?= service
TAG ?= lakefeed
image:  ## the container image, with docker, podman or buildah
	@test -n "$(BUILDER)" || { echo "image: install docker, podman or buildah"; exit 1; }
	$(BUILDER) build $(if $(findstring docker,$(BUILDER)),,--format docker) -f deploy/Containerfile \
	  $(if $(BASE),--build-arg BASE=$(BASE)) $(if $(EXTRAS),--build-arg EXTRAS=$(EXTRAS)) \
	  --target $(TARGET) -t $(TAG) $(ARGS) .

clean:  ## remove .venv and everything generated
	rm -rf .venv .venv.lock build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find lakefeed tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
