# A fresh machine needs Python 3.11 or newer and this file.
PYTHON ?= python3
BIN := .venv/bin
# On Linux the index's own torch is a CUDA build of several GB. For a small CPU build:
#     make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

.PHONY: install demo test slow battery lint types floors clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/tacit learn demo --method simclr --minutes 0.75 --out demo-run
	@echo "report: $(CURDIR)/demo-run/report.html"

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q

slow: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q -m slow

battery: install
	TACIT_BATTERY=all OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q tests/common

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

floors: install
	$(BIN)/lint-imports

clean:
	rm -rf .venv demo-run
