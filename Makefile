# A fresh clone needs nothing but Python 3.11 or newer and make: the first call builds .venv, later ones reuse it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WHEEL_VENV := .venv-wheel
PIP_OPTIONS := --disable-pip-version-check --quiet --quiet
RECBOLE := recbole==1.2.1
SYSTEM := redis-server chromium
SOURCES := pyproject.toml constraints.txt hatch_build.py

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint types wheel-test units install install-dev system clean

help:
	@echo "make demo        protect SASRec on ml-100k, rob it, print what it cost and what it saved"
	@echo "make test        lint, types, wheel-test and units: everything that has to pass"
	@echo "make lint        formatting, style and the floors between the rooms"
	@echo "make types       mypy --strict and pyright"
	@echo "make wheel-test  the README's Python example on a wheel in an environment of its own"
	@echo "make units       pytest without the slow tests"
	@echo "make clean       remove the environments and what the tools leave behind"

demo: install
	@$(BIN)/gro demo

test: lint types wheel-test units

lint: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: install-dev
	$(BIN)/mypy
	$(BIN)/pyright

units: install-dev system
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

# What is not packaged is not there. The environment stays for the next call, the wheel is always new.
wheel-test:
	@rm -rf build
	$(call environment,$(WHEEL_VENV))
	$(WHEEL_VENV)/bin/python -m pip wheel $(PIP_OPTIONS) --no-deps --wheel-dir build .
	$(call installed,$(WHEEL_VENV),wheel,"$$(echo build/gro-*.whl)[recbole]")
	$(WHEEL_VENV)/bin/python -m pip install $(PIP_OPTIONS) --no-deps --force-reinstall build/gro-*.whl
	$(WHEEL_VENV)/bin/python -I tests/readme_example.py

install:
	$(call environment,$(VENV))
	$(call installed,$(VENV),recbole+plot,-e ".[recbole$(comma)plot]")

install-dev:
	$(call environment,$(VENV))
	$(call installed,$(VENV),dev,-e ".[recbole$(comma)plot$(comma)dev]")

# What the tests start for real, by the names of the programs, which are those of their Debian packages.
system:
	@missing="$$(for each in $(SYSTEM); do command -v $$each >/dev/null || printf '%s ' $$each; done)"; \
	[ -z "$$missing" ] || { \
		echo "installing $$missing" && sudo="$$([ "$$(id -u)" = 0 ] || echo sudo)" && \
		$$sudo apt-get -qq update && $$sudo apt-get -qq install --no-install-recommends $$missing >/dev/null; \
	} || { echo "the tests need $$missing: install it, then run make test again" >&2; exit 2; }

clean:
	rm -rf $(VENV) $(WHEEL_VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

comma := ,

# Makes the virtual environment $(1); one that is broken or was moved is made anew.
define environment
	@grep -qsF "$(CURDIR)/$(1)" $(1)/bin/activate && $(1)/bin/python -c 'import pip' 2>/dev/null || { \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "gro needs Python 3.11 or newer, and '$(PYTHON)' is not. Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }; \
		rm -rf $(1) && $(PYTHON) -m venv $(1); }
endef

# Installs $(3) and RecBole into $(1) and notes it under the name $(2); does nothing where that was done for these very
# sources and this Python.
define installed
	@stamp="$(1)/.gro-$(2)"; now="$$($(1)/bin/python -V; cat $(SOURCES) | cksum)"; \
	if [ "$$now" != "$$(cat "$$stamp" 2>/dev/null)" ]; then \
		echo "installing gro ($(2)) into $(1)" && \
		$(1)/bin/python -m pip install $(PIP_OPTIONS) -c constraints.txt $(3) && \
		$(1)/bin/python -m pip install $(PIP_OPTIONS) -c constraints.txt --no-deps $(RECBOLE) && \
		echo "$$now" > "$$stamp"; \
	fi
endef
