# The book and its tests. `make help` lists what there is to make.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
PORT ?= 8000

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: book test notebooks mutants bench extremes gpu serve lab clean help

# one thread a process: two threads in each of two processes are slower than one
book test notebooks mutants extremes: export OMP_NUM_THREADS := 1
book test notebooks mutants extremes: export MKL_NUM_THREADS := 1

book: $(READY)  ## build the book into _build/html; executes the pages that are stale
	@$(BIN)/python -m support book --jobs $(JOBS)

test: $(READY)  ## check the style, run the unit tests, execute every page quickly, compare the tagged cells of the notebooks
	@echo "style"; $(BIN)/ruff check --quiet support tests
	@echo "unit tests, and tests of the built book"; $(BIN)/python -m pytest tests -n $(JOBS) -rs
	@echo "every page with its quick parameters"; $(BIN)/python -m support smoke --jobs $(JOBS)
	@echo "every page against its committed outputs"; SUPPORT_BOOK=1 $(BIN)/python -m pytest --nbval-lax --nbval-current-env -n $(JOBS) --dist loadfile notebooks

notebooks: $(READY)  ## execute the pages that are stale, refresh the outputs in notebooks/ and the README's counts of verdicts
	@$(BIN)/python -m support notebooks --jobs $(JOBS)
	@$(BIN)/python -m support counts --write

mutants: $(READY)  ## run pages and tests under deliberate faults, and record which verdicts notice them (long; goes on where it stopped)
	@$(BIN)/python -m support mutants --jobs $(JOBS)

bench: $(READY)  ## measure how fast the package runs, and write the page that says so
	@$(BIN)/python -m support bench

extremes: $(READY)  ## execute every page at sampled and extreme valid parameters (long; not part of make test)
	@$(BIN)/python -m pytest tests/extremes.py

gpu: $(READY)  ## say which recorded runs a GPU would make next, and how long they take
	@$(BIN)/python -m support experiments queue --device cuda --dry-run

serve:  ## show the built book at http://127.0.0.1:8000 (PORT=... for another)
	@test -f _build/html/index.html || { echo "no book in _build/html: run 'make book' first" >&2; exit 1; }
	@echo "http://127.0.0.1:$(PORT)"; $(PYTHON) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

lab: $(VENV)/.lab  ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

clean:  ## remove what was built; the environment, your runs and the checkpoints of experiments stay
	find _build -mindepth 1 -maxdepth 1 -not -name runs -not -name experiments -exec rm -rf {} + 2>/dev/null || true
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(READY): requirements.txt constraints.txt pyproject.toml
	@echo "environment in $(VENV) (a minute or two)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) -r requirements.txt -c constraints.txt
	@$(PIP) --no-deps --editable .
	@touch $@

$(VENV)/.lab: $(READY)
	@echo "JupyterLab into $(VENV)"
	@$(PIP) jupyterlab jupyterlab-myst -c constraints.txt
	@touch $@
