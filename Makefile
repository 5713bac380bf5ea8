# Every target installs what it needs into a virtual environment of its own.
#   make demo               the main job on a real face, with the runtime alone
#   make test               style, types and all tests
#   make test-runtime       the tests that a robot's installation can run (no torch), e.g. PYTHON=python3.10
#   make soak               an hour's pictures of a camera that fails by script (minutes); make soak-short: seconds
#   make bench-loop         the loop's speed, memory and steadiness beside other packages' (gigabytes of those, once)
#   make arm64              a Jetson emulated, from flash to removal, as root (many minutes; docs/jetson.md)
#   make train-face         train, export and check the default bundle (hours on a CPU)

PYTHON ?= python3
RUNTIME ?= .venv
DESKTOP ?= .venv-desktop
# Where the CPU build of torch comes from another place, or a GPU build is wanted: make test TORCH=torch
TORCH ?= torch==2.13.0
# More options of the soak: make soak SOAK="--seed 1 --landmarks 5"
SOAK ?=
FER2013 ?= ../shared/data/fer2013

PIP = -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-runtime lint bench-loop soak soak-short arm64 train-face clean

demo: $(RUNTIME)/.installed
	$(RUNTIME)/bin/edge run synthetic:// --jsonl out/demo.jsonl --video out/demo.mp4

test: lint
	$(DESKTOP)/bin/python -m pytest

lint: $(DESKTOP)/.installed
	$(DESKTOP)/bin/ruff format --check .
	$(DESKTOP)/bin/ruff check .
	$(DESKTOP)/bin/mypy

test-runtime: $(RUNTIME)/.installed-test
	$(RUNTIME)/bin/python -m pytest tests/edge tests/test_*.py

soak: $(RUNTIME)/.installed
	$(RUNTIME)/bin/python -m benchmarks.soak $(SOAK)

soak-short: $(RUNTIME)/.installed
	$(RUNTIME)/bin/python -m benchmarks.soak --frames 4000 $(SOAK)

bench-loop: $(RUNTIME)/.installed
	$(RUNTIME)/bin/python -m benchmarks.peers --environments .venv-rivals

arm64:
	nice -n 19 jetson/emulated.sh

train-face: $(DESKTOP)/.installed
	$(DESKTOP)/bin/python -m train cspp --recipe fer2013 --batch-norm --precision bf16-mixed \
		--data $(FER2013) --out runs/face --resume
	$(DESKTOP)/bin/python -m export runs/face/best.pt --out runs/face/bundle --name face \
		--precisions fp32,fp16,int8 --calibrate $(FER2013) --evaluate $(FER2013)
	$(DESKTOP)/bin/edge check runs/face/bundle

clean:
	rm -rf $(RUNTIME) $(DESKTOP) .venv-rivals out build dist *.egg-info

$(RUNTIME)/.installed: pyproject.toml
	$(PYTHON) -m venv $(RUNTIME)
	$(RUNTIME)/bin/python $(PIP) -e .
	touch $@

$(RUNTIME)/.installed-test: $(RUNTIME)/.installed
	$(RUNTIME)/bin/python $(PIP) -e ".[preview,test]"
	touch $@

# torch first: anything that depends on it would otherwise bring its largest build.
$(DESKTOP)/.installed: pyproject.toml
	$(PYTHON) -m venv $(DESKTOP)
	$(DESKTOP)/bin/python $(PIP) "$(TORCH)"
	$(DESKTOP)/bin/python $(PIP) -e ".[train,export,cluster,preview,test,lint]"
	touch $@
