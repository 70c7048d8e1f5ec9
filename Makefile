# make demo   captions photographs; then trains, scores and captions on the embedded data, from nothing
# make test   the tests; make test-slow, the long ones; make check, ruff and mypy
# make docs   the documentation, into site/; make demo-blind, the demo's model without its eyes
.PHONY: demo demo-blind docs test test-slow check clean
.DELETE_ON_ERROR:

VENV ?= .venv
PYTHON ?= python3
DEMO ?= demo
WORKERS ?= 2
PY = $(VENV)/bin/python
SKIMAGE = $$($(PY) -c 'import importlib.util as i; print(i.find_spec("skimage").submodule_search_locations[0])')

# Stamps: installing happens once, and again only where setup.cfg has changed.
$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -e .[demo]
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(PY) -m pip install -e .[docs]
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PY) -m pip install -e .[dev]
	touch $@

# Photographs that scikit-image ships: those of people, animals and things, in alphabetical order. None was
# chosen for its caption. astronaut: NASA, public domain; camera, chelsea, coffee: CC0; rocket: SpaceX, CC0.
PHOTOS = astronaut.png camera.png chelsea.png coffee.png rocket.jpg

demo: $(VENV)/installed
	@echo "Photographs that scikit-image ships, captioned by the packaged model, which has seen people and dogs"
	@echo "out of doors, and hardly a cat, a cup or a rocket:"
	@cd $(SKIMAGE)/data && $(abspath $(VENV))/bin/caption $(PHOTOS)
	rm -rf $(DEMO)/seeing
	$(PY) data_prep/scenes.py $(DEMO)/scenes
	$(PY) train.py data.root=$(DEMO)/scenes experiment=scenes encoder.image_size=224 run_dir=$(DEMO)/seeing
	$(PY) eval.py model=$(DEMO)/seeing/model data.root=$(DEMO)/scenes split=test run_dir=$(DEMO)/seeing/test
	$(VENV)/bin/caption --model $(DEMO)/seeing/model $(DEMO)/scenes/images/test_00000[0-7].png
	$(VENV)/bin/captioner runs $(DEMO)/seeing $(DEMO)/seeing/test

demo-blind: $(VENV)/installed
	rm -rf $(DEMO)/blind
	$(PY) data_prep/scenes.py $(DEMO)/scenes
	$(PY) train.py data.root=$(DEMO)/scenes experiment=scenes encoder=blind run_dir=$(DEMO)/blind
	$(PY) eval.py model=$(DEMO)/blind/model data.root=$(DEMO)/scenes split=test run_dir=$(DEMO)/blind/test
	$(VENV)/bin/captioner runs $(DEMO)/blind $(DEMO)/blind/test

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal

test-slow: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -m slow -rs -n $(WORKERS) --dist load --maxschedchunk 1

check: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) $(DEMO) site build dist *.egg-info
