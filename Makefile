# make demo [ARGS="--for 60s"]   a ward at work, everything embedded: nothing to install but Python 3.11
# make test [EXTRAS=all]         the tests; with EXTRAS=all also those that need torch, and the slow ones
# make check                     ruff, mypy, the import floors and the fast tests: before every commit (make lint: all but the tests)
# make kafka-start, kafka-stop   a real Apache Kafka at 127.0.0.1:19092 (Java 17 and Maven; see infra/kafka/kafka.py)
#
# Each makes .venv when it is missing and refreshes it when pyproject.toml changed. PYTHON=python3.12 chooses the interpreter.

PYTHON ?= python3
EXTRAS ?= dev
ARGS ?=
BIN := .venv/bin
TYPED_SCRIPTS := infra/kafka/kafka.py infra/kafka/jars.py infra/kafka/host.py infra/environment.py

.DEFAULT_GOAL := help
.PHONY: help env demo test check lint kafka-start kafka-stop kafka-status

help:
	@sed -n 's/^# //p' Makefile

env:
	@$(PYTHON) infra/environment.py $(EXTRAS)

demo:
	@$(PYTHON) infra/environment.py
	@$(BIN)/vigil demo $(ARGS)

test: env
	$(BIN)/python -m pytest $(if $(filter all,$(EXTRAS)),,-m "not slow") $(ARGS)

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases $(TYPED_SCRIPTS)

check: lint
	$(BIN)/python -m pytest -q tests/unit $(ARGS)

kafka-start:
	@$(PYTHON) infra/kafka/kafka.py start $(ARGS)

kafka-stop:
	@$(PYTHON) infra/kafka/kafka.py stop $(ARGS)

kafka-status:
	@$(PYTHON) infra/kafka/kafka.py status $(ARGS)
