# `make demo` and `make test` do all their own set-up; VENV=… keeps the environment elsewhere.
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
STAMP := $(VENV)/.cxr-mmdet-installed
DEMO := work_dirs/demo
# One more than the cores: tests of servers and queues wait as much as they compute.
WORKERS ?= $(shell expr $$($(PYTHON) -c 'import os; print(os.cpu_count() or 1)') + 1)

.PHONY: demo test test-fast check install clean
.DEFAULT_GOAL := test

install: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --editable ".[test,dev]"
	touch $@

# Synthetic radiographs → prepared folder → training → mAP on patients never seen → pages to look at.
demo: $(STAMP)
	$(PY) tools/prepare_data.py phantom $(DEMO)/phantom --images 520 --seed 7 --size 512 --labels 5 --abnormal-share 0.85 --jobs 2 --force
	$(PY) tools/prepare_data.py build $(DEMO)/phantom $(DEMO)/prepared --labels 5 --jobs 2 --force
	$(PY) tools/train.py configs/retina_phantom.py --data-root $(DEMO)/prepared --work-dir $(DEMO)/run --load-from phantom
	$(PY) tools/test.py configs/retina_phantom.py $(DEMO)/run --data-root $(DEMO)/prepared --out $(DEMO)/scores
	$(PY) tools/evaluate.py gallery $(DEMO)/prepared/annotations/val_5.json $(DEMO)/scores/detections.json --images $(DEMO)/prepared/images --out $(DEMO)/gallery.html --force
	$(PY) tools/evaluate.py run $(DEMO)/prepared/annotations/val_5.json $(DEMO)/scores/detections.json --out $(DEMO)/report --force
	@printf '%s\n' '' 'The data:             $(DEMO)/prepared/report.html' 'Training:             $(DEMO)/run/curves.png' 'Truth and detections: $(DEMO)/gallery.html' 'The detector:         $(DEMO)/report/report.html'

# One thread per worker, since the workers share the cores; neighbouring tests stay in one worker and share its fixtures.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses $(WORKERS) --dist worksteal $(PYTEST_ARGS)

# The inner loop: without the tests that train, export, serve or start processes.
test-fast: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses $(WORKERS) --dist worksteal --quiet -m "not slow and not vinbigdata" $(PYTEST_ARGS)

check: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

clean:
	rm -rf $(DEMO) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
