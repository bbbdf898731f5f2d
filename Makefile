# Each target sets up .venv by itself, but for gpu-check. PYTHON chooses the interpreter, TORCH the torch to install where the
# environment has none (TORCH= installs no torch: bring your own). What follows ## is what make help prints.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.fusedrnn-ready
SOURCES := setup.py pyproject.toml $(wildcard csrc/*/*.* csrc/*/*/*.*)
# Side by side, a file in one process, whose tests share what they compile: 18 minutes of make test-all on two cores become 10.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile tests

.PHONY: demo test test-all bench gpu-check info clean help
.DELETE_ON_ERROR:

demo: $(STAMP)  ## train a forecaster with torch.nn and with fusedrnn, and compare them; what make alone does
	$(BIN)/python examples/forecast_demo.py

test: $(STAMP)  ## run the tests
	$(PYTEST)

# also nvcc for every architecture, where it is there, and the CUDA kernels under AddressSanitizer
test-all: $(STAMP)  ## run also the tests that compile for minutes
	$(PYTEST) -m "slow or not slow"

bench: $(STAMP)  ## measure speed and memory against torch.nn; ARGS="--suite full", or what else python -m benchmarks takes
	$(BIN)/python -m benchmarks $(ARGS)

# with PYTHON's own torch, which has to be a CUDA build, and the extension that the check builds with it
gpu-check:  ## build, test and race on this machine's GPU, with PYTHON's torch; ARGS="--budget 480 --output FILE"
	$(PYTHON) -m benchmarks.gpu_check $(ARGS)

info: $(STAMP)  ## print version, location, build, compiler, torch, devices and threads
	$(BIN)/python -m fusedrnn info

clean:  ## remove what was built, but not .venv
	rm -rf build *.egg-info fusedrnn/_C.*.so $(STAMP)

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# No build isolation: the extension must be compiled against the torch that will load it.
$(STAMP): $(BIN)/python $(SOURCES)
	@echo "Setting up $(VENV): downloads what is missing, then compiles, two to five minutes on two cores"
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet setuptools wheel ninja
	$(BIN)/python -m pip install --quiet --no-build-isolation -e ".[test,demo,bench]"
	touch $@
