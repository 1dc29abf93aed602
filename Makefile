# `make demo` shows the main job, `make test` checks all but the slow statistical tests, which
# `make test-slow` runs; `make test-all` does both in one go, as continuous integration does.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS ?= data,faiss,plot,quant,train,dev
MARKS ?= not slow
STAMP := $(VENV)/.installed

.PHONY: demo test test-all test-every test-fast test-slow wheel docs check format clean

demo: $(STAMP)
	$(BIN)/unembed demo -o runs/demo

# A process a core, with one thread each. Each begins with its part of the files, whose tests share what
# they set up, and who is done first takes over from the end of another's.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

test: check test-fast

test-all: check test-every

test-every: $(STAMP)
	$(PYTEST)

test-fast: $(STAMP)
	$(PYTEST) -m "$(MARKS)"

# Coverage of intervals, unbiasedness and the like, over hundreds of simulations.
test-slow: $(STAMP)
	$(PYTEST) -m slow

# Built, installed in an empty environment, and tried outside of the repository.
wheel:
	PYTHON=$(PYTHON) .ci/wheel

# The site, in build/site: it opens from the disk, without a server or a network. Warnings are errors.
docs: $(STAMP)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs,plot,quant]'
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs build/site
	@echo "open build/site/index.html"

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .venv-3.13 runs

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $(STAMP)
