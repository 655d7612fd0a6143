# Every target sets up what it needs in .venv, once. Variables: PYTHON, TORCH_INDEX (PyTorch's CPU wheel index or a
# mirror of it, where set-up can't find a CPU build by itself), ARGS (passed on to demo, pytest and benchmarks).
PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=
export PYTHON TORCH_INDEX
# Tests and demo start many processes, which would each compile every module again.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
SETUP_INPUTS := pyproject.toml .ci/setup
BENCHMARKS = $(shell grep -l '^    main(' benchmarks/*.py)
BROKER_TESTS = $(wildcard tests/integration/test_attacks*.py tests/integration/test_fleet_*.py) \
	tests/integration/test_first_fleet.py tests/contract
# What runs on a node: its own parts, and nodes beside a real broker. Nothing is converted or installed there.
NODE_TESTS = tests/unit/schemas tests/unit/broker tests/unit/edge_node tests/contract \
	$(filter-out %/test_node_environment.py,$(wildcard tests/integration/test_node_*.py)) \
	tests/integration/test_live_move.py tests/integration/test_first_fleet.py
.DEFAULT_GOAL := help
.PHONY: help demo test check bench test-long test-arm64 test-compose test-mosquitto test-termux test-packages test-asyncapi
.PHONY: docs docs-site clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z].*## / { printf "  make %-36s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.ready-demo ## three nodes on this machine answer a question with a real language model
	@$(BIN)/linguabus demo $(ARGS)

test: .venv/.ready-test ## all tests except the marked ones below, a few at once
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n auto $(ARGS)

test-long test-arm64 test-compose test-packages: .venv/.ready-test ## tests that take minutes, 64-bit ARM, containers, or other installations
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -m $(@:test-%=%) $(HOW) $(ARGS)

test-mosquitto: .venv/.ready-mosquitto ## roles, members and attacks on them, with the installed Mosquitto and with 2.1
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n auto $(BROKER_TESTS) $(ARGS)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n auto --newer-mosquitto $(BROKER_TESTS) $(ARGS)

test-termux: .venv/.ready-termux ## a node's tests on what Termux has: Python 3.14, Mosquitto 2.1, and the oldest and newest ONNX Runtime
	@$(BIN)/python -m tests.support.termux_versions -n auto $(NODE_TESTS) $(ARGS)

test-asyncapi: .venv/.ready-asyncapi ## docs/asyncapi.json against AsyncAPI's own parser, which npm fetches
	@cp .ci/validate_asyncapi.mjs .venv/asyncapi/ && node .venv/asyncapi/validate_asyncapi.mjs docs/asyncapi.json

test-long: HOW := -n auto --hypothesis-profile=explore

test-long: .venv/.ready-long

test-arm64: .venv/.ready-arm64

test-compose: .venv/.ready-compose

check: .venv/.ready-test ## lint and type-check
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: .venv/.ready-test ## every benchmark; ARGS=--quick for the short form
	@set -e; for script in $(BENCHMARKS); do $(BIN)/python $$script $(ARGS); done

docs: .venv/.ready-test ## write docs/cli.md and docs/configuration.md from the commands
	@$(BIN)/python .ci/cli_reference.py > docs/cli.md
	@$(BIN)/python .ci/configuration_reference.py > docs/configuration.md

docs-site: .venv/.ready-test ## the documentation as a site, in build/site
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -d build/doctrees docs build/site
	@echo "build/site/index.html"

clean: ## remove .venv, caches and build output (models in the user's cache stay)
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/.ready-demo: $(SETUP_INPUTS)
	@.ci/setup demo

.venv/.ready-test: $(SETUP_INPUTS)
	@.ci/setup test

.venv/.ready-long: $(SETUP_INPUTS) | .venv/.ready-test
	@.ci/setup long

.venv/.ready-arm64: $(SETUP_INPUTS) | .venv/.ready-test
	@.ci/setup arm64

.venv/.ready-mosquitto: $(SETUP_INPUTS) | .venv/.ready-test
	@.ci/setup mosquitto

.venv/.ready-termux: $(SETUP_INPUTS) | .venv/.ready-test
	@.ci/setup termux

.venv/.ready-asyncapi: .venv/.ready-test
	@npm install --silent --ignore-scripts --prefix .venv/asyncapi @asyncapi/parser@3 && touch $@

.venv/.ready-compose: $(SETUP_INPUTS)
	@.ci/setup compose
