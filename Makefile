# Everything a developer runs. `make` alone lists the targets.
# On a machine with cargo, python3, make and Debian's packages, `make test` and `make demo` fetch what else they need.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build run test fuzz chaos escapes soak lint fmt bench demo setup redis

BIN := .venv/bin
PYTHON_SOURCES := python_shim/executor_shim tasks tools scripts/demo.py
SCRIPTS := $(wildcard scripts/*.sh benches/*.sh) .ci/run

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build the release binary, target/release/executor
	cargo build --release

run: build redis ## serve with the settings of the environment and config/schedule.yaml
	target/release/executor serve

test: setup redis ## all tests, Rust and Python, against a real Redis and a real python3
	if cargo nextest --version >/dev/null 2>&1; then cargo nextest run && cargo test --doc; else cargo test; fi
	cargo test --features failpoints --test chaos -- --nocapture failpoints
	$(BIN)/pytest -c python_shim/pyproject.toml python_shim/executor_shim/tests
	$(BIN)/pytest -q -p no:cacheprovider tests/python

fuzz: ## read CASES (default 1000000) made-up inputs with each reader of what comes from outside (SEED=…, TARGET=payload|frames|config|experiments|cron)
	FUZZ_CASES=$(or $(CASES),1000000) FUZZ_SEED=$(or $(SEED),$(shell date +%s)) cargo test --profile fuzz --test fuzz $(TARGET) -- --nocapture

# How often, which seed, and which mode alone (kills, failpoints, replies, restarts, fleet).
ROUNDS ?= 1000
SEED ?= 1
MODE ?=
CHAOS := CHAOS_ROUNDS=$(ROUNDS) CHAOS_SEED=$(SEED) cargo test --release --test chaos

chaos: redis ## kill, drop, restart and stall under load, then a tenth as many rounds of escapes (ROUNDS=1000 SEED=1, MODE= one alone); docs/reliability.md
	$(if $(filter failpoints,$(MODE)),,$(CHAOS) -- --nocapture --test-threads=1 $(MODE))
	$(if $(filter-out failpoints,$(MODE)),,$(CHAOS) --features failpoints -- --nocapture failpoints)
	$(if $(MODE),,$(MAKE) escapes ROUNDS=$$((($(ROUNDS) + 9) / 10)))

# The default of ROUNDS is that of `chaos`.
ESCAPES_ROUNDS = $(if $(filter file,$(origin ROUNDS)),100,$(ROUNDS))

escapes: build setup redis ## the escape zoo and the floods in full, ROUNDS=100 times, on the release build
	EXECUTOR_BINARY=$(CURDIR)/target/release/executor ESCAPES_ROUNDS=$(ESCAPES_ROUNDS) FLOOD_MB=$(or $(FLOOD_MB),1024) \
		cargo test --test it -- --nocapture --test-threads 5 escapes:: floods::

soak: build setup redis ## every kind of run mixed, RUNS=100000 of them, and nothing that grows, on the release build
	EXECUTOR_BINARY=$(CURDIR)/target/release/executor SOAK_RUNS=$(or $(RUNS),100000) cargo test --test it -- --nocapture soak::

lint: setup ## formatting, clippy, ruff, mypy --strict, shell syntax, the systemd unit
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --all-targets --features failpoints -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict --config-file python_shim/pyproject.toml $(PYTHON_SOURCES)
	for script in $(SCRIPTS); do bash -n "$$script"; done
	bash scripts/verify-unit.sh packaging/executor.service

fmt: setup ## format Rust and Python
	cargo fmt
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: build redis .venv-bench/ready ## measure the executor, RQ, Celery and the machine's floor (PARTS: only these)
	.venv-bench/bin/python benches/bench.py $(PARTS)

.venv-bench/ready: benches/requirements.txt scripts/ensure-venv.sh
	bash scripts/ensure-venv.sh .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

demo: redis ## jobs that succeed, fail, hang and crash, live, in under a minute (DEMO_PROFILE=debug: the debug build)
	cargo build $(if $(filter debug,$(DEMO_PROFILE)),,--release)
	python3 scripts/demo.py

setup: .venv/ready ## the Python tools of tests and lint, in .venv

.venv/ready: python_shim/requirements-dev.txt scripts/ensure-venv.sh
	bash scripts/ensure-venv.sh .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

redis:
	@bash scripts/ensure-redis.sh
