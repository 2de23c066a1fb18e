# Two commands: `make demo` and `make test`. Both first create .venv from the pinned lock, with the command `neuralign`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
STUDY ?= demo
# TORCH=cpu installs PyTorch's CPU build, from PyTorch's own index: 1.5 GB in all rather than 6.3 (docs/install.md)
TORCH ?= default
CPU_INDEX ?= https://download.pytorch.org/whl/cpu
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# for downloads of minutes, with the bars of pip where somebody sees them
PIP_SHOWN := @[ -t 1 ] || export PIP_QUIET=1; $(BIN)/python -m pip install --disable-pip-version-check

.PHONY: help demo test test-slurm check lint lock study bench reference results site

demo: STUDY = demo
demo: study ## a whole study on handwritten digits, in minutes

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | sort

study: $(READY) ## any study of config.yaml: make study STUDY=paper
	@$(BIN)/neuralign run $(STUDY)

test: $(READY) ## every test, including the workflow's
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup tests

test-slurm: $(READY) ## the workflow on a Slurm of one node, brought up and taken down here (root on Debian; else skipped)
	@timeout --signal=INT --kill-after=120 1800 $(BIN)/python -m pytest -q -rs -m slurm tests/workflow/test_slurm.py; code=$$?; \
		tests/slurm/down.sh; exit $$code

bench: $(READY) ## the speed targets on this machine (docs/speed.md): make bench TOPICS="training attacks"
	MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=2147483647 PYTHONPATH=lib \
		$(BIN)/python -m benchmarks.run $(TOPICS) # memory is kept as in jobs (lib/neuralign/workflow/running/failure.py)

check: lint test

lint: $(READY) ## formatting, lint, types, the workflow's own lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules lib/neuralign/cli/study_folder/Snakefile
	$(BIN)/mypy
	$(BIN)/snakemake --lint

results: $(READY) ## docs/results.md and the results in README.md, from results/published
	PYTHONPATH=lib $(BIN)/python -m neuralign.report.page.results_page results/published docs/results.md README.md

reference: $(READY) ## docs/config.md, the page of all keys of the config, and config.schema.json, from the code
	PYTHONPATH=lib $(BIN)/python -m neuralign.config.documentation.reference_page docs/config.md
	PYTHONPATH=lib $(BIN)/python -m neuralign.config.documentation.json_schema config.schema.json

site: $(READY) ## the site, in build/site, from docs/; its tutorials run for a minute
	OMP_NUM_THREADS=1 $(BIN)/python docs/site/make_site.py build/site

lock: $(READY) ## pin the dependencies of pyproject.toml for all platforms; UPGRADE=--upgrade: by their newest releases
	$(BIN)/pip install --quiet uv
	cp requirements.lock requirements.lock.new # releases that are pinned stay as they are
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --generate-hashes $(UPGRADE) \
		--all-extras --group dev --group docs pyproject.toml --output-file requirements.lock.new
	{ echo "# Every dependency, pinned for all platforms, with the digests of its files. Written by \`make lock\`; installed by"; \
	  echo "# \`make demo\` and \`make test\`. envs/from_lock.py makes the other lists from this one."; \
	  sed '/^#/d' requirements.lock.new; } > requirements.lock && rm requirements.lock.new
	$(BIN)/python envs/from_lock.py files

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version)'
	@echo "neuralign and its dependencies are installed into $(VENV), once, and again when the pinned versions change:"
ifeq ($(TORCH),cpu)
	@echo "1.5 GB on disk with PyTorch's CPU build, a few minutes of download. Ctrl-C is safe: the same command continues."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python envs/from_lock.py cpu > $(VENV)/cpu.txt
	$(PIP_SHOWN) -r $(VENV)/cpu.txt
	$(PIP_SHOWN) --no-deps --index-url $(CPU_INDEX) $$($(BIN)/python envs/from_lock.py torch)
else
	@echo "6.3 GB on disk, most of it PyTorch's CUDA build, a few minutes of download. Without an NVIDIA GPU, 1.5 GB do:"
	@echo "end this by Ctrl-C, remove $(VENV), and add TORCH=cpu to the command. Without that, the same command continues."
	@$(PYTHON) -m venv $(VENV)
	$(PIP_SHOWN) -r requirements.lock
endif
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@
