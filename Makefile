# make demo, make test, make test-all: each sets up .venv by itself. PYTHON chooses the interpreter, TORCH the torch to install
# where the environment has none (TORCH= installs no torch: bring your own).
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.fusedrnn-ready
SOURCES := setup.py pyproject.toml $(wildcard csrc/*/*.* csrc/*/*/*.*)

.PHONY: demo test test-all bench gpu-check info clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	$(BIN)/python examples/forecast_demo.py

test: $(STAMP)
	$(BIN)/python -m pytest tests

# also nvcc for every architecture, where it is there, and the CUDA kernels under AddressSanitizer
test-all: $(STAMP)
	$(BIN)/python -m pytest tests -m "slow or not slow"

# ARGS="--suite full", and whatever else python -m benchmarks takes
bench: $(STAMP)
	$(BIN)/python -m benchmarks $(ARGS)

# with PYTHON's own torch, which has to be a CUDA build, and the extension that the check builds with it; ARGS="--budget 480 --output FILE"
gpu-check:
	$(PYTHON) -m benchmarks.gpu_check $(ARGS)

info: $(STAMP)
	$(BIN)/python -m fusedrnn info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# No build isolation: the extension must be compiled against the torch that will load it.
$(STAMP): $(BIN)/python $(SOURCES)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet setuptools wheel ninja
	$(BIN)/python -m pip install --quiet --no-build-isolation -e ".[test,demo,bench]"
	touch $@

clean:
	rm -rf build *.egg-info fusedrnn/_C.*.so $(STAMP)
