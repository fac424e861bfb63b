# Two commands do everything on a fresh machine with Python: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 2
export HF_HUB_OFFLINE := 1

.PHONY: demo test test-full test-oldest lint types tests benchmarks accuracy clean

demo: .venv/demo.stamp
	$(BIN)/anywidth train recipes/digits.yaml --run runs/digits
	$(BIN)/anywidth eval runs/digits --widths 0.25,0.4,0.5,0.75,1.0
	$(BIN)/anywidth report runs/digits
	$(BIN)/anywidth export runs/digits --width 0.5

test: .venv/dev.stamp lint types tests

lint: .venv/dev.stamp
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks

types: .venv/dev.stamp
	$(BIN)/pyright

tests: .venv/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# More kills, seeds and detectors.
test-full: .venv/dev.stamp lint types
	ANYWIDTH_FULL=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# The suite with the oldest torch that is supported, in an environment of its own.
test-oldest: .venv-oldest/dev.stamp
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n 2

.venv-oldest/dev.stamp: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --upgrade pip
	.venv-oldest/bin/python -m pip install --quiet torch==2.11.0 torchvision==0.26.0
	.venv-oldest/bin/python -m pip install --quiet -e ".[dev,export]"
	touch $@

benchmarks: .venv/dev.stamp
	$(BIN)/python benchmarks/coverage.py --jobs 2 --out docs/coverage
	$(BIN)/python benchmarks/step.py --out docs/step
	$(BIN)/python benchmarks/train_throughput.py
	$(BIN)/python benchmarks/prune.py
	$(BIN)/python benchmarks/prune_latency.py

# Hours on a CPU. DATA holds CIFAR-10 as train/CLASS/FILE and test/CLASS/FILE.
accuracy: .venv/dev.stamp
	$(BIN)/python benchmarks/accuracy_us.py --data $(DATA)
	$(BIN)/python benchmarks/accuracy_autoslim.py --data $(DATA)

# torch and torchvision are installed together, by their plain names: only so do their builds match.
.venv/torch.stamp:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch torchvision
	touch $@

.venv/demo.stamp: .venv/torch.stamp pyproject.toml
	$(BIN)/python -m pip install --quiet -e .
	touch $@

.venv/dev.stamp: .venv/torch.stamp pyproject.toml
	$(BIN)/python -m pip install --quiet -e ".[dev,export]"
	touch $@ .venv/demo.stamp

clean:
	rm -rf .venv .venv-oldest runs
