# Two commands on a fresh machine: `make run` and `make test`. Both make .venv when it is missing and reuse it after.
# Needs: Python 3.11 or newer with venv and headers, a C compiler, make, git.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := pyproject.toml setup.py $(wildcard agentcom/_*.pyx agentcom/_*.pxi sidecar/agentcom_sidecar/_guard*.[ch])

.PHONY: run core test sim engine coverage faults soak lint check bench docs clean

# The environment is made again only when what it was made from has changed. Without a C compiler the install goes
# on with the twins in Python of scheduler and guard, and `agentcom doctor` says so.
.venv/.run: $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit("AgentCom needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing AgentCom into .venv (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/.test: .venv/.run
	@echo "installing what the tests need into .venv (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

.venv/.dev: .venv/.test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,dev]'
	@touch $@

run: .venv/.run
	@$(BIN)/agentcom up --demo --repo . $(if $(ONCE),--once)

# The hub's core, compiled: a fifth to a quarter less CPU for a task. Optional: without it, or where the sources have
# changed since, the hub runs on its sources, and `agentcom doctor` says which.
core: .venv/.run
	@echo "installing what compiles the core into .venv (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[core]'
	@$(BIN)/python -m agentcom.compile_core

# Tests that start processes wait most of the time, so they share the cores: JOBS says how many at once.
test: .venv/.test
	@$(BIN)/python -m pytest -n $(or $(JOBS),auto) --maxprocesses 4 --dist worksteal

# The simulator. `make sim` is what every merge runs; SEEDS=100000, HOURS=1000 (simulated) and MINUTES=10 (real) go
# on for as long as is asked, under every fault; FIRST is the first seed, ALIVE=1 the runs in which nobody may die.
sim: .venv/.test
	$(if $(SEEDS)$(HOURS)$(MINUTES)$(FIRST),$(BIN)/python -m tests.sim --json $(if $(SEEDS),--seeds $(SEEDS)) \
		$(if $(HOURS),--hours $(HOURS)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(FIRST),--first $(FIRST)) \
		$(if $(ALIVE),--alive),$(BIN)/python -m pytest tests/sim)

# Branches of core, store and scheduler that no test takes: below 95% it fails (pyproject.toml, [tool.coverage]).
COVERED_BY = tests/unit/core tests/unit/test_complexity.py tests/unit/test_crosscheck.py tests/unit/test_loading.py \
	tests/unit/test_migrations.py tests/unit/test_record.py tests/unit/test_sched.py tests/contract
coverage: .venv/.test
	@rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest -n auto --maxprocesses 4 --dist worksteal $(COVERED_BY) --ignore-glob='*standin*'
	$(BIN)/python -m coverage run -m tests.sim --seeds 20 --jobs 0
	@$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --skip-covered --show-missing

# Standard tasks against real inference: llama.cpp by way of Node, with a tiny model that the test makes itself. What it
# needs goes into build/engine, about 85 MB, without running any package's own scripts.
ENGINE = build/engine
ENGINE_PLATFORM = $(shell node -p "({'darwin-arm64': 'mac-arm64-metal', 'darwin-x64': 'mac-x64'})[process.platform + '-' + process.arch] || process.platform + '-' + process.arch")
$(ENGINE)/.installed:
	@command -v npm >/dev/null || { echo "this needs Node 20 or newer, with npm"; exit 1; }
	@echo "installing the inference engine into $(ENGINE) (once)"
	@mkdir -p $(ENGINE)
	@npm install --prefix $(ENGINE) --silent --no-audit --no-fund --no-package-lock --ignore-scripts --omit=optional \
		node-llama-cpp@3 @node-llama-cpp/$(ENGINE_PLATFORM)@3
	@touch $@

engine: .venv/.test $(ENGINE)/.installed
	AGENTCOM_REQUIRE_ENGINE=1 $(BIN)/python -m pytest tests/engine

# The fault rig: what every merge runs.
faults: .venv/.test
	$(BIN)/python -m pytest tests/faults

# The long column: MINUTES for each of the rows I1, I2, I4, I6, I9, I11 and I22, or for those of ROWS=I2,I6 (ROWS=all).
MINUTES_EACH = $(or $(MINUTES),10)
soak: .venv/.test
	$(BIN)/python -m tests.faults --json --minutes $(MINUTES_EACH) $(if $(SEED),--seed $(SEED)) \
		$(if $(filter all,$(ROWS)),,$(if $(ROWS),--rows $(ROWS),--soak))

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

bench: .venv/.test
	$(BIN)/python -m bench.hub
	$(BIN)/python -m bench.depth
	$(BIN)/python -m bench.probes
	$(BIN)/python -m bench.sampling
	$(BIN)/python -m bench.peers
	$(BIN)/python -m bench.scheduler
	$(BIN)/python -m bench.sidecar
	$(BIN)/python -m bench.fleet

docs: .venv/.run
	$(BIN)/python -m agentcom.protocol_doc > docs/protocol.md

clean:
	rm -rf .venv build *.egg-info agentcom/_core agentcom/*.so agentcom/_*.c sidecar/agentcom_sidecar/_guard.bin
