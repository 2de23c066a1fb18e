# Two commands: `make demo` and `make test`. Both first create .venv from the pinned lock.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed-from-lock
STUDY ?= demo

# one run at a time: whoever holds this lock is alive, so Snakemake's own lock from a killed run may be removed
RUN := mkdir -p results && flock --nonblock --conflict-exit-code 75 results/.running sh -c

.PHONY: demo test check lint lock study bench

demo: STUDY = demo
demo: study

study: $(READY) ## any study of config.yaml: make study STUDY=paper
	@$(RUN) '$(BIN)/snakemake --unlock $(STUDY) --quiet all >/dev/null 2>&1; $(BIN)/snakemake --cores all --quiet rules host -- $(STUDY)' \
		|| { code=$$?; [ $$code -ne 75 ] || echo "another run is at work in this folder (results/.running is locked)"; exit $$code; }
	@PYTHONPATH=lib $(BIN)/python -m neuralign.show results/studies/$(STUDY)

test: $(READY) ## every test, including the workflow's
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup tests

bench: $(READY) ## the speed targets on this machine (docs/speed.md): make bench TOPICS="training attacks"
	PYTHONPATH=lib $(BIN)/python -m benchmarks.run $(TOPICS)

check: lint test

lint: $(READY) ## formatting, lint, types, the workflow's own lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/mypy
	$(BIN)/snakemake --lint

lock: $(READY) ## pin the dependencies of pyproject.toml anew, for all platforms
	$(BIN)/pip install --quiet uv
	{ echo "# Every dependency, pinned for all platforms. Written by \`make lock\`; installed by \`make demo\` and \`make test\`."; \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header --extra dev pyproject.toml; \
	} > requirements.lock.new && mv requirements.lock.new requirements.lock

$(READY): requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	touch $@
