# Every target sets itself up: a virtual environment in .venv, with the tested versions of constraints.txt.
# A second call finds the stamp files newer than pyproject.toml and constraints.txt, and starts at once.
# Another interpreter: make PYTHON=/path/to/python3.12 test.  Some tests only: make test ARGS='-k recipes'.

BIN := .venv/bin
BASE := .venv/base.stamp
DEV := .venv/dev.stamp
BENCH := .venv/bench.stamp
SITE := .venv/site.stamp

CANDIDATES := python3.11 python3.12 python3.13 python3.14 python3
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
# Run, not only looked up: a version manager's python3.12 may be on the PATH and yet not start.
PYTHON ?= $(firstword $(foreach name,$(CANDIDATES),$(shell $(name) -c '$(USABLE)' >/dev/null 2>&1 && echo $(name))))

# Three workers, on two cores too, since some tests wait for processes of their own; and one thread each: a worker loads all of
# torch, and threads of two processes get in each other's way.
WORKERS ?= 3
# Bytecode is written, whatever a person has set: many tests start a Python.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test check types format docs docs-site notebooks bench bench-check verdicts verdicts-check package constraints clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/make \1|\2/p' Makefile | while IFS='|' read -r target text; do \
		printf '%-18s %s\n' "$$target" "$$text"; done

demo: $(BASE)  ## the whole job on generated pictures, offline, a few minutes
	$(BIN)/vitrine demo

test: $(DEV)  ## the tests
	$(PYTEST) $(ARGS)

check: $(DEV)  ## format, lint, types, import layers, tests: what continuous integration runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory --jobs=2 types test

types: $(DEV)  ## the types alone
	$(BIN)/mypy

format: $(DEV)  ## rewrite the code as the checks want it
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .

docs: $(DEV)  ## rewrite the generated pages of docs/ from the command line and the recipes
	$(BIN)/python tools/make_docs.py

docs-site: $(SITE)  ## the documentation as a site, in build/site, its links checked
	$(BIN)/python tools/make_site.py

notebooks: $(SITE)  ## run the notebooks of examples/ and keep what they show
	$(BIN)/python tools/run_notebooks.py $(ARGS)

bench: $(BENCH)  ## every benchmark, a quarter of an hour: writes benchmarks/RESULTS.md and results.json
	$(BIN)/python benchmarks/suite.py $(ARGS)

bench-check: $(BENCH)  ## the same ratios now: fails where one fell by more than 15 % below benchmarks/results.json
	$(BIN)/python benchmarks/suite.py --check $(ARGS)

verdicts: $(BENCH)  ## how often verdicts are right: writes benchmarks/VERDICTS.md, verdicts.json and the tables of docs/maps.md
	$(BIN)/python benchmarks/verdicts.py $(ARGS)

verdicts-check: $(BENCH)  ## the same rates now: fails where one is worse than in benchmarks/verdicts.json by more than 0.08
	$(BIN)/python benchmarks/verdicts.py --check $(ARGS)

package: $(DEV)  ## wheel and sdist in dist/; the wheel in an empty environment, where the demo runs; many minutes
	rm -rf dist build/package
	$(BIN)/python -m build --outdir dist .
	'$(PYTHON)' -m venv build/package
	build/package/bin/python -m pip install $(if $(CI),-qq) --disable-pip-version-check -c constraints.txt dist/*.whl
	cd build/package && bin/vitrine --version && bin/python -m vitrine positions vitrine/scenes-tiny -o positions.png
	cd build/package && bin/python -c "import vitrine; print(vitrine.load('vitrine/scenes-tiny'))"
	cd build/package && bin/vitrine demo -o demo

constraints: $(BASE)  ## move constraints.txt to the newest versions; run 'make check' and 'make bench' afterwards
	$(BIN)/python tools/make_constraints.py

clean:  ## remove .venv and every cache; runs and results stay
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call install,EXTRAS): an environment that is missing, was left half made, or lost its interpreter is made anew.
define install
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { '$(PYTHON)' -c '$(USABLE)' 2>/dev/null || { \
		echo "vitrine needs Python 3.11 or newer with venv; found '$(or $(PYTHON),none)'." >&2; \
		echo "Install one (Debian: apt install python3 python3-venv) or name one: make PYTHON=/path/to/python" >&2; \
		exit 1; }; \
		echo "Making .venv with $(PYTHON); the first time takes a few minutes."; '$(PYTHON)' -m venv --clear .venv; }
	$(if $(CI),$(BIN)/python tools/install_side_by_side.py '$(1)')
	$(BIN)/python -m pip install $(if $(CI),-qq --no-compile) --disable-pip-version-check -c constraints.txt -e '.$(1)'
	@touch $(2)
endef

$(BASE): pyproject.toml constraints.txt
	$(call install,,$(BASE))

$(DEV): pyproject.toml constraints.txt
	$(call install,[dev],$(BASE) $(DEV))

$(BENCH): pyproject.toml constraints.txt
	$(call install,[dev$(,)bench],$(BASE) $(DEV) $(BENCH))

$(SITE): pyproject.toml constraints.txt
	$(call install,[dev$(,)docs],$(BASE) $(DEV) $(SITE))

, := ,
