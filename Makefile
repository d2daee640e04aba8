# `make demo` and `make test` need Python >= 3.11 and nothing else; they install what they use into .venv.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := mesh ca policyengine audit enforcer learner limen

# what a test or the demo starts in a process of its own shall not compile the project anew each time
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test fmt lint types contracts system bench soak fuzz demo-ten proto constraints clean

.venv/run.stamp: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Limen needs Python 3.11 or newer: set PYTHON=") if sys.version_info < (3, 11) else 0'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing what Limen runs on into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev.stamp: .venv/run.stamp constraints-dev.txt
	@echo "installing the tools that test Limen into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints-dev.txt
	@touch $@

demo: .venv/run.stamp
	@$(BIN)/limen demo

test: .venv/dev.stamp
	@$(BIN)/python -m pytest -m "not slow" -q -n auto --dist loadfile

system: .venv/dev.stamp
	@$(BIN)/python -m pytest -q -m "system or root or peer or slow"

fmt: .venv/dev.stamp
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: .venv/dev.stamp
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .

types: .venv/dev.stamp
	@$(BIN)/mypy

contracts: .venv/dev.stamp
	@$(BIN)/lint-imports

bench: .venv/dev.stamp
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints-bench.txt
	@$(BIN)/python -m benchmarks

demo-ten: .venv/run.stamp
	@for turn in 1 2 3 4 5 6 7 8 9 10; do $(BIN)/limen demo -o json || exit 1; done

soak: .venv/dev.stamp
	@LIMEN_SOAK=1 LIMEN_EXAMPLES=40 $(BIN)/python -m pytest -q --timeout 7200 -m "slow or hypothesis"

# every parser of bytes from outside, for so many seconds; a finding names its parser and its bytes
LIMEN_FUZZ_S ?= 300
fuzz: .venv/dev.stamp
	@LIMEN_FUZZ_S=$(LIMEN_FUZZ_S) $(BIN)/python -m pytest -q -s tests/fuzz -k "beyond"

proto: .venv/dev.stamp
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I. --python_out=. --mypy_out=. --grpc_python_out=. mesh/proto/*.proto

constraints:
	@uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --no-annotate pyproject.toml requirements/build.in -o constraints.txt
	@uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --no-annotate pyproject.toml requirements/build.in --group test --group lint -c constraints.txt -o constraints-dev.txt
	@uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --no-annotate requirements/bench.in -o constraints-bench.txt

clean:
	@rm -rf .venv .mypy_cache .ruff_cache .hypothesis build *.egg-info
