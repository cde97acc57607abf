# Two commands set everything up by themselves, in .venv: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BUILT_FROM := pyproject.toml setup.py $(wildcard include/*.h csrc/*/*.?pp csrc/*/*/*.?pp)

.PHONY: demo test lint fuzz sanitize site clean

# judge every backend of this machine, and let the bundled model write
demo: $(VENV)/.demo
	$(BIN)/refgss info
	$(BIN)/refgss check
	$(BIN)/refgss generate "def fibonacci(n):" --temperature 0.6

# what CI runs; JOBS processes share the test files
JOBS ?= 2
test: $(VENV)/.test lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.demo: $(BUILT_FROM)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[certify]"
	@touch $@

$(VENV)/.test: $(BUILT_FROM)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[test]"
	@touch $@ $(VENV)/.demo

# the long fuzzers, which print their counts; the suite runs a short version of each
fuzz: $(VENV)/.test
	$(BIN)/python -m pytest -m long -s

# the C++ under the address, undefined-behaviour and thread sanitizers: its own tests, without those
# whose work is Python's or that run against the clock; under the last those where threads meet, but for forks, which it does not support
sanitize: $(VENV)/.test
	PATH=$(abspath $(BIN)):$$PATH tests/native/sanitize.sh address,undefined \
	    -m "not long" -k "not instruction_set and not within_its_budgets and not leaks and not ranges \
	    and not interrupt and not interpreter"
	PATH=$(abspath $(BIN)):$$PATH tests/native/sanitize.sh thread \
	    -m "not long" \
	    -k "(threads or callers or control_c or kept or layers or slow) and not forked and not instruction_set"

# the documentation, as a folder of HTML
site: $(VENV)/.test
	$(BIN)/python -m mkdocs build --strict -d build/site

clean:
	rm -rf $(VENV) build dist *.egg-info refgss/native/*.so
