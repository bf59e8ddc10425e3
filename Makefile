# make demo   from a pretrained model and (simulated) people's rankings to a better model; ARGS are the demo's flags
# make test   every check and test
# Both set themselves up in .venv. Set-up speaks on standard error, so that `make demo ARGS=--json` ends with its JSON.

PYTHON ?= python3
TORCH ?= torch==2.13.0
ARGS ?=
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check

.PHONY: demo test clean

demo: $(VENV)/ready
	@$(VENV)/bin/tutelage demo $(ARGS)

test: $(VENV)/ready-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest -n auto

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("tutelage needs Python 3.11 or later; this is %s. Name another: make PYTHON=python3.12" % sys.version.split()[0])' 1>&2
	@$(PYTHON) -c 'import ensurepip, venv' 1>&2 || { echo 'This Python cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv' 1>&2; exit 1; }
	@echo 'Setting up $(VENV) (a few minutes the first time)' 1>&2
	@$(PYTHON) -m venv $(VENV) 1>&2

$(VENV)/ready: $(VENV)/bin/python pyproject.toml
	@$(PIP) install --quiet '$(TORCH)' 1>&2
	@$(PIP) install --quiet --editable . 1>&2
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready
	@$(PIP) install --quiet --editable '.[dev]' 1>&2
	@touch $@
