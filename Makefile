# dataplane: every step from a fresh clone to a running demo. `make help` lists the targets.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
export PATH := $(CURDIR)/$(BIN):$(PATH)

SOURCES := $(shell find csrc dataplane -name '*.[ch]' -o -name '*.py' -path 'csrc/*') pyproject.toml meson.build meson.options
FUZZ_SECONDS ?= 10
BENCH ?=
BENCH_OUTPUT := build/bench-report
COVERAGE := -fprofile-instr-generate -fcoverage-mapping
SANITIZE := -Dtests=true -Dbuildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false

.DEFAULT_GOAL := help
.PHONY: help setup build gen demo test test-c test-python test-long fuzz fuzz-coverage lint bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.packages ## install what building, testing and the demo need (Debian packages as root; .venv for Python)

$(VENV)/.packages: tools/packages.sh pyproject.toml
	@bash tools/packages.sh
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "meson-python>=0.18" "meson>=1.4" ninja "cffi>=2.0"
	@touch $@

build: $(VENV)/.built ## compile the C core and install the command into .venv (editable)

$(VENV)/.built: $(VENV)/.packages $(SOURCES)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable '.[dev]'
	@touch $@

gen: build build/tools/helm ## make anew what is generated and committed: etcd_pb2.py, deploy/kubernetes/dataplane.yml (tests tell when one is not current)
	@$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. dataplane/stores/etcd/etcd.proto
	@bash tools/manifest.sh > build/manifest.yml && mv build/manifest.yml deploy/kubernetes/dataplane.yml

build/tools/helm: tools/helm.py $(VENV)/.packages
	@$(BIN)/python tools/helm.py build/tools
	@touch $@

demo: build ## run a virtual cluster: pods ping and move data over each backend, nothing is left behind
	@$(BIN)/dataplane demo

test: build test-c fuzz test-python ## run every test: C under sanitizers, short fuzzing, Python, namespaces, interop

test-c: build ## the C tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@test -d build/sanitize || meson setup build/sanitize $(SANITIZE) > /dev/null
	@meson test -C build/sanitize --print-errorlogs

# Files go to the two workers in the order of the folders, the stores first (tests/conftest.py): the long ones are before the
# end, which the small ones fill up.
# Compiled before, so that hundreds of daemons need not be, also where PYTHONDONTWRITEBYTECODE is set.
test-python: build build/tools/helm ## the Python, namespace and interop tests: two at a time, then alone what loads the machine or needs it quiet
	@$(BIN)/python -m compileall -q dataplane
	@$(BIN)/python -m pytest tests -m "not alone and not long" -n 2 --dist loadfile --no-loadscope-reorder
	@$(BIN)/python -m pytest tests -m alone

test-long: build ## what takes minutes: each host call failing in turn, every change of configuration, faults of the underlay, old and new leases
	@$(BIN)/python -m compileall -q dataplane
	@$(BIN)/python -m pytest tests -m long -n 2 --dist loadfile

fuzz: build ## fuzz the receive parsers and the whole forwarder from the kept corpus (FUZZ_SECONDS each, default 10)
	@test -d build/fuzz || CC=clang meson setup build/fuzz -Dfuzz=true -Dbuildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false > /dev/null
	@ninja -C build/fuzz > build/fuzz/ninja.log || { cat build/fuzz/ninja.log; exit 1; }
	@bash tests/fuzz/run.sh $(FUZZ_SECONDS)

fuzz-coverage: build ## which lines of csrc the fuzzers reach (FUZZ_SECONDS each); fails below 90 %
	@test -d build/fuzz-coverage || CC=clang meson setup build/fuzz-coverage -Dfuzz=true -Dbuildtype=debug -Db_lundef=false -Dc_args="$(COVERAGE)" -Dc_link_args="$(COVERAGE)" > /dev/null
	@ninja -C build/fuzz-coverage > build/fuzz-coverage/ninja.log || { cat build/fuzz-coverage/ninja.log; exit 1; }
	@bash tests/fuzz/coverage.sh $(FUZZ_SECONDS)

lint: build ## ruff, mypy --strict, import-linter, C warnings as errors with gcc and clang
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/python tools/lint_imports.py
	@for cc in gcc clang; do $$cc -std=gnu11 -D_GNU_SOURCE -O2 -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Werror -Icsrc -Icsrc/include -fsyntax-only csrc/*/*.c dataplane/cni/launcher.c || exit 1; done

bench: build ## the benchmark suite, about 30 minutes (BENCH=--quick: under one): table, JSON, report page in build/bench-report
	@test -d build/bench || meson setup build/bench -Dbench=true > /dev/null
	@ninja -C build/bench > build/bench/ninja.log || { cat build/bench/ninja.log; exit 1; }
	@mkdir -p $(BENCH_OUTPUT)
	@$(BIN)/python -m pytest bench --benchmark-quiet --benchmark-json=$(BENCH_OUTPUT)/pieces.json
	@$(BIN)/dataplane bench --output $(BENCH_OUTPUT) $(BENCH)

clean: ## remove everything that the other targets made
	find dataplane -name __pycache__ -exec rm -rf {} +
	rm -rf build $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
