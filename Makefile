# `make demo` shows the main job, `make test` checks all but the slow statistical tests, which
# `make test-slow` runs. Continuous integration runs both.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS ?= data,faiss,plot,quant,train,dev
MARKS ?= not slow
STAMP := $(VENV)/.installed

.PHONY: demo test test-fast test-slow wheel docs check format clean

demo: $(STAMP)
	$(BIN)/unembed demo -o runs/demo

test: check test-fast

# A process a core, with one thread each; the tests of a file share what they set up.
test-fast: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile -m "$(MARKS)"

# Coverage of intervals, unbiasedness and the like, over hundreds of simulations: any test to any core.
test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m slow

# Built, installed in an empty environment, and tried outside of the repository.
wheel: $(STAMP)
	PYTHON=$(abspath $(BIN)/python) .ci/wheel

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
