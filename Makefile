# make demo   trains, evaluates and captions on the embedded data, from nothing
# make test   the tests; make test-slow, the long ones; make check, ruff and mypy
.PHONY: demo test test-slow check clean
.DELETE_ON_ERROR:

VENV ?= .venv
PYTHON ?= python3
DEMO ?= demo
PY = $(VENV)/bin/python

# Stamps: installing happens once, and again only where setup.cfg has changed.
$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PY) -m pip install -e .[dev]
	touch $@

demo: $(VENV)/installed
	rm -rf $(DEMO)/seeing $(DEMO)/blind
	$(PY) data_prep/scenes.py $(DEMO)/scenes
	$(PY) train.py data.root=$(DEMO)/scenes experiment=scenes encoder.image_size=224 run_dir=$(DEMO)/seeing
	$(PY) train.py data.root=$(DEMO)/scenes experiment=scenes encoder=blind run_dir=$(DEMO)/blind
	$(PY) eval.py model=$(DEMO)/seeing/model data.root=$(DEMO)/scenes split=test run_dir=$(DEMO)/seeing/test
	$(PY) eval.py model=$(DEMO)/blind/model data.root=$(DEMO)/scenes split=test run_dir=$(DEMO)/blind/test
	$(VENV)/bin/caption --model $(DEMO)/seeing/model $(DEMO)/scenes/images/test_00000[0-7].png
	$(PY) -m captioner.commands runs $(DEMO)/seeing $(DEMO)/blind $(DEMO)/seeing/test $(DEMO)/blind/test

test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(PY) -m pytest

test-slow: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -m slow

check: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info
