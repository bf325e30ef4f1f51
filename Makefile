# `make demo` and `make test` work on a machine that has only Python 3.11 or newer: whatever else is
# needed goes into .venv, at the versions that constraints.txt pins. PYTHON=... names the Python.

export RAY_USAGE_STATS_ENABLED := 0
export PYTHON

run := .venv/bin/python -m
# On every core, but on four at most: each worker takes some seconds to import what is tested. Who is
# done takes over half of what another has before it: neighbours stay together, with their fixtures.
spread := -n auto --maxprocesses 4 --dist worksteal
seeds ?= 20000
cut ?= 12

.PHONY: help demo test check lint bench chaos cluster-test soak clean setup

help:
	@echo 'make demo    start a small cluster, break it, and show that nothing is lost'
	@echo 'make test    style, types and all tests, with real Ray actors (slow ones left out)'
	@echo 'make check   style, types, and the tests of what decides: two minutes, before each commit'
	@echo 'make bench   measure, and compare with what else could be used'
	@echo 'make chaos   kill, stop, reset and cut off what runs, the GCS too, under load: ten minutes'
	@echo 'make cluster-test  the Ray cluster of cluster.yaml, on hosts in namespaces (root); with cut=600 one is cut off for ten minutes'
	@echo 'make soak    every test, slow ones too, with seeds=$(seeds): for a night'
	@echo 'make clean   remove caches and built packages (.venv stays)'

demo: setup
	@.venv/bin/dynamo-ray demo

# What needs Ray comes last, if the rest passed, and one by one: it is timed, on a machine to itself.
test: lint
	@$(run) pytest $(spread) -m 'not ray and not slow'
	@$(run) pytest -m 'ray and not slow'

# What decides, and what guards it: the core, the simulator's guards, and the wire.
check: lint
	@$(run) pytest $(spread) -m 'not slow' tests/core tests/sim --ignore tests/sim/test_seeds.py \
		tests/wire tests/test_architecture.py

lint: setup
	@$(run) ruff check --quiet --output-format concise .
	@$(run) mypy

bench: setup
	@$(run) benchmarks

chaos: setup
	@$(run) pytest tests/chaos --chaos-json build/chaos.json

cluster-test: setup
	@DYNAMO_RAY_CUT_S=$(cut) $(run) pytest tests/cluster

soak: setup
	@HYPOTHESIS_PROFILE=soak $(run) pytest --seeds $(seeds) --timeout 14400

setup:
	@.ci/setup

clean:
	@rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find dynamo_ray cli tests benchmarks examples .editable -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
