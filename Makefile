# Two commands on a fresh machine: `make study ARCH=c4-5-4` and `make test`. Each sets up .venv.
ARCH   ?= c4-5-4
STUDY  ?= $(ARCH)
TRIALS ?=
EPOCHS ?=
PART   ?=
TASK   ?=
ARGS   ?=
MINUTES ?= 20
PYTHON ?= python3

GOLF := .venv/bin/golf-opt
SETUP := .venv/.installed
MKDOCS := NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

.PHONY: help setup study worker demo task dashboard test test-fast fuzz check docs reproduce records bench bench-storage compare-samplers recipes clean
.DEFAULT_GOAL := help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo
	@echo '  variables: ARCH=$(ARCH) TRIALS=50 EPOCHS=18 ARGS="key=value ..." PYTHON=$(PYTHON)'

setup: $(SETUP) ## Create .venv; the other targets do it when needed

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "golf_opt needs Python 3.11 or newer; give make PYTHON=python3.12, for example"; exit 2; }
	@echo "setting up .venv (a few minutes, once)"
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@touch $@

study: $(SETUP) ## Run a study of ARCH up to TRIALS trials, or go on with it
	@$(GOLF) study arch=$(ARCH) $(if $(TRIALS),trials=$(TRIALS)) $(if $(EPOCHS),epochs=$(EPOCHS)) $(ARGS)

worker: $(SETUP) ## Run trials of STUDY beside its other workers
	@$(GOLF) worker study=$(STUDY) $(ARGS)

# of ARGS, the dashboard takes what is about it and about where the studies are
demo: $(SETUP) ## Two small studies of bundled digits, a minute or two, then the dashboard
	@$(GOLF) study arch=c4-5-4 data=digits trials=20 epochs=12 dir=studies/demo $(filter-out dashboard.%,$(ARGS))
	@$(GOLF) study arch=c3-4-4 data=digits trials=12 epochs=12 dir=studies/demo $(filter-out dashboard.%,$(ARGS))
	@$(GOLF) dashboard dir=studies/demo $(filter dashboard.% dir=% storage% data.root=%,$(ARGS))

task: $(SETUP) ## One of four tasks from its data to C: TASK=mnist, digits8, photos or signals
	@.venv/bin/python docs/examples/tasks.py $(TASK)

dashboard: $(SETUP) ## Browse the studies at http://127.0.0.1:8080/
	@$(GOLF) dashboard $(ARGS)

test: $(SETUP) ## Run the tests
	@.venv/bin/python -m pytest $(ARGS)

test-fast: $(SETUP) ## Run those that need no server, browser or compiler, in about a minute
	@.venv/bin/python -m pytest -m "not slow and not postgres and not browser and not gpu" $(ARGS)

fuzz: $(SETUP) ## Try made-up input for MINUTES, 20 if not given
	@.venv/bin/python tests/fuzzing.py $(MINUTES)

check: $(SETUP) ## Lint, check formatting and types, build the documentation
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/mypy
	@$(MKDOCS)

docs: $(SETUP) ## Write the generated parts of docs/, and build the site in site/
	@.venv/bin/python docs/scripts/configuration.py --write
	@.venv/bin/python docs/scripts/layers.py --write
	@.venv/bin/python docs/scripts/packages.py --write
	@.venv/bin/python docs/scripts/tasks.py --write
	@.venv/bin/python -m bench.readme --write
	@.venv/bin/python -m golf_opt.golf.records.table --write
	@$(MKDOCS)

reproduce: $(SETUP) ## Train again what the sources published; PART=full for more seeds
	@$(GOLF) reproduce $(if $(PART),part=$(PART)) $(ARGS)

records: $(SETUP) ## Verify all records; write the tables of docs/records.md, the leaderboard and the log
	@$(GOLF) verify $(ARGS)
	@.venv/bin/python -m golf_opt.golf.records.table --write
	@$(GOLF) leaderboard output=docs/leaderboard $(filter data.% data=%,$(ARGS))

bench: $(SETUP) .venv/.bench ## Measure the engines and a study against PyTorch; writes bench/results/
	@.venv/bin/python -m bench.engines $(ARGS)
	@.venv/bin/python -m bench.lanes
	@.venv/bin/python -m bench.study
	@.venv/bin/python -m bench.dashboard

bench-storage: $(SETUP) .venv/.bench ## Measure the storage against plain Optuna's
	@.venv/bin/python -W ignore -m bench.storage $(ARGS)

compare-samplers: $(SETUP) ## Compare samplers, pruners and seeds on recorded trainings; writes studies/samplers/
	@.venv/bin/python -m bench.samplers.compare $(ARGS)

recipes: $(SETUP) ## Try training ideas one by one and together, in minutes; PART=full: all, for hours
	@.venv/bin/python -m bench.recipes $(or $(PART),quick) $(ARGS)

.venv/.bench: $(SETUP)
	.venv/bin/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[bench]'
	@touch $@

clean: ## Remove .venv and caches; studies stay
	rm -rf .venv site .mypy_cache .ruff_cache .pytest_cache .hypothesis
