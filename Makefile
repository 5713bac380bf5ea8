# Every target installs what it needs into a virtual environment of its own.
#   make demo               the main job on a real face, with the runtime alone
#   make test               style, types and all tests
#   make test-runtime       the tests that a robot's installation can run (no torch), e.g. PYTHON=python3.10
#   make soak               an hour's pictures of a camera that fails by script (minutes); make soak-short: seconds
#   make bench              what ships, measured here: latency, accuracy, memory, curves; out/bench/report.html (minutes)
#   make bench-quick        less of it, in under two minutes
#   make bench-loop         the loop's speed, memory and steadiness beside other packages' (gigabytes of those, once)
#   make kernels            what nvcc says of the CUDA kernels, their occupancy, and the bytes they move (needs nvcc)
#   make arm64              a Jetson emulated, from flash to removal, as root (many minutes; docs/jetson.md)
#   make train-face         train, export and check the default bundle on a GPU (half an hour by its parts)
#   make train-face-cpu     another recipe for it, half a point less right (half a day of two cores)

PYTHON ?= python3
RUNTIME ?= .venv
DESKTOP ?= .venv-desktop
# Where the CPU build of torch comes from another place, or a GPU build is wanted: make test TORCH=torch
TORCH ?= torch==2.13.0
# More options of the soak: make soak SOAK="--seed 1 --landmarks 68"
SOAK ?=
# More options of the benchmarks: make bench BENCH="--families"
BENCH ?=
FER2013 ?= ../shared/data/fer2013

# Without labelled crops no accuracy is measured, and the report says so.
LABELLED = $(if $(wildcard $(FER2013)),--data $(FER2013))

PIP = -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-runtime lint bench bench-quick bench-loop soak soak-short kernels arm64 train-face train-face-cpu clean

demo: $(RUNTIME)/.installed
	$(RUNTIME)/bin/edge run synthetic:// --jsonl out/demo.jsonl --video out/demo.mp4

# Two processes of one thread each; the tests of a file stay together. Tests that fail (pytest's exit status 1, and no
# other) beside another process are tried once more, alone: some measure time. A process that crashes is not replaced:
# pytest-xdist would wait for ever.
test: lint
	OMP_NUM_THREADS=1 $(DESKTOP)/bin/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 || { [ $$? -eq 1 ] && \
		$(DESKTOP)/bin/python -m pytest --last-failed --last-failed-no-failures none; }

lint: $(DESKTOP)/.installed
	$(DESKTOP)/bin/ruff format --check .
	$(DESKTOP)/bin/ruff check .
	$(DESKTOP)/bin/mypy

test-runtime: $(RUNTIME)/.installed-test
	$(RUNTIME)/bin/python -m pytest tests/edge tests/examples tests/test_*.py

soak: $(RUNTIME)/.installed
	$(RUNTIME)/bin/python -m benchmarks.soak $(SOAK)

soak-short: $(RUNTIME)/.installed
	$(RUNTIME)/bin/python -m benchmarks.soak --frames 4000 $(SOAK)

bench: $(RUNTIME)/.installed-bench
	$(RUNTIME)/bin/python -m benchmarks $(LABELLED) $(BENCH)

bench-quick: $(RUNTIME)/.installed-bench
	$(RUNTIME)/bin/python -m benchmarks --quick $(LABELLED) $(BENCH)

bench-loop: $(RUNTIME)/.installed
	$(RUNTIME)/bin/python -m benchmarks.peers --environments .venv-rivals

kernels: $(RUNTIME)/.installed
	$(RUNTIME)/bin/python -m benchmarks.kernels

arm64:
	nice -n 19 jetson/emulated.sh

# A run's result as a bundle, with its card, and checked: $(call bundle,FOLDER)
define bundle
$(DESKTOP)/bin/python -m export $(1)/best.pt --out $(1)/bundle --name face \
	--precisions fp32,fp16,int8 --calibrate $(FER2013) --evaluate $(FER2013) --card
$(DESKTOP)/bin/edge check $(1)/bundle
endef

FACE = $(DESKTOP)/bin/python -m train cspp --variant residual --data $(FER2013) --resume

# What ships: three wide networks, and one of the shipped size that learns from them. For an NVIDIA GPU: TORCH=torch.
WIDE = $(FACE) --precision bf16-mixed --record --recipe face-teacher --width 2 --hidden 128
train-face: $(DESKTOP)/.installed
	$(WIDE) --dropout 0.4 --seed 1 --out runs/teacher-1
	$(WIDE) --dropout 0.4 --seed 4 --mixup 0.4 --rotation 10 --scale 0.1 --shift 0.05 --erase 0 --out runs/teacher-2
	$(WIDE) --dropout 0.2 --seed 3 --label-smoothing 0.1 --out runs/teacher-3
	$(FACE) --precision bf16-mixed --record --recipe face-pupil --hidden 64 --dropout 0.1 --seed 11 --out runs/face \
		$(foreach n,1 2 3,--teacher runs/teacher-$(n)/best.pt)
	$(call bundle,runs/face)

# On two cores, within a day: four runs, each from the one before. Half a point less right than what ships.
NEXT = $(FACE) --precision auto --hidden 64 --dropout 0.2
train-face-cpu: $(DESKTOP)/.installed
	$(FACE) --precision auto --hidden 64 --dropout 0.4 --recipe face --out runs/face-first
	$(NEXT) --recipe face-again --start runs/face-first/best.pt --teacher runs/face-first/best.pt --out runs/face-again
	$(NEXT) --recipe face-further --start runs/face-again/best.pt --teacher runs/face-again/best.pt --out runs/face-further
	$(NEXT) --recipe face-last --start runs/face-further/best.pt \
		--teacher runs/face-again/best.pt --teacher runs/face-further/best.pt --out runs/face-last
	$(call bundle,runs/face-last)

clean:
	rm -rf $(RUNTIME) $(DESKTOP) .venv-rivals out build dist *.egg-info

$(RUNTIME)/.installed: pyproject.toml
	$(PYTHON) -m venv $(RUNTIME)
	$(RUNTIME)/bin/python $(PIP) -e .
	touch $@

$(RUNTIME)/.installed-test: $(RUNTIME)/.installed
	$(RUNTIME)/bin/python $(PIP) -e ".[preview,ros,mqtt,test]"
	touch $@

$(RUNTIME)/.installed-bench: $(RUNTIME)/.installed
	$(RUNTIME)/bin/python $(PIP) -e ".[bench]"
	touch $@

# torch first: anything that depends on it would otherwise bring its largest build.
$(DESKTOP)/.installed: pyproject.toml
	$(PYTHON) -m venv $(DESKTOP)
	$(DESKTOP)/bin/python $(PIP) "$(TORCH)"
	$(DESKTOP)/bin/python $(PIP) -e ".[train,export,cluster,preview,ros,mqtt,bench,test,lint]"
	touch $@
