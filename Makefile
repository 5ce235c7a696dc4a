# make demo    the story of one hang, in six acts
# make test    format, lint, types, then the tests on every CPython 3.11 to 3.15 that is found
# make docs    the documentation as a site, links checked: build/site/index.html
# make bench   what a fork costs, bare and armed
# make flat    what a million looks and ten thousand forks leave behind
# make innocence   other people's tests, with Forkproof and without (an hour)
# make sanitize    the tests of the C code under AddressSanitizer and UBSan
# make debug       the same tests on a debug build of Python (DEBUG=python3.11d), and all references counted
#
# Needs a C compiler and a Python 3.11+ with headers; everything else goes into .venv and .venvs.
#   make test PYTHON=python3.14                      with another python than python3 for .venv
#   make test PYTHONS="python3.11 /opt/python3.15"   tests on these interpreters only
#   make test PYTEST="-k launch -x"                  options for pytest

PYTHON ?= python3
PYTHONS ?=
PYTEST ?=
DEBUG ?= python3.11d
VENV ?= .venv

bin := $(VENV)/bin
sources := $(shell find src -type f -not -name '*.pyc' -not -name '*.so') pyproject.toml setup.py README.md LICENSE

.PHONY: demo test matrix lint format docs bench innocence sanitize debug flat clean

demo: $(VENV)/lab.stamp
	@$(bin)/forkproof demo

test: lint matrix

matrix:
	$(PYTHON) tools/matrix.py --pytest="$(PYTEST)" $(PYTHONS)

lint: $(VENV)/dev.stamp
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/mypy

format: $(VENV)/dev.stamp
	$(bin)/ruff format .
	$(bin)/ruff check --fix .

docs: $(VENV)/docs.stamp
	$(bin)/python tools/docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --strict
	@echo 'build/site/index.html; with its search: python3 -m http.server --directory build/site'

bench: $(VENV)/cli.stamp
	$(bin)/python benchmarks/fork_overhead.py

innocence:
	$(PYTHON) tools/innocence.py

sanitize:
	$(PYTHON) tools/sanitize.py

debug:
	$(PYTHON) tools/sanitize.py --plain --malloc debug --python $(DEBUG)

flat: $(VENV)/cli.stamp
	$(bin)/python benchmarks/flat.py

# An ordinary install, renewed when a source has changed: what is tried is what users get.
$(VENV)/%.stamp: $(sources) tools/install.py
	$(PYTHON) tools/install.py $(VENV) $*
	@touch $@

clean:
	rm -rf .venv .venvs build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests tools -name __pycache__ -prune -exec rm -rf {} +
