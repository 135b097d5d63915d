# Fovea: `make run` shows a result, `make test` checks everything. Both set up a fresh clone by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test check methods bench soak soak-kills soak-outage soak-half_open soak-fuzz lint types unit clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

run: $(READY)
	$(BIN)/fovea demo $(if $(ONCE),--once,)

# The evaluation data beside the checkout is used where it is there; FOVEA_DATA names another place.
FOVEA_DATA ?= $(wildcard ../shared/data)
ifneq ($(FOVEA_DATA),)
export FOVEA_DATA
endif

test: lint types $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -q --ignore=tests/acceptance --ignore=tests/viewer --ignore=tests/hostile
	$(BIN)/python -m pytest -q tests/hostile tests/acceptance $(wildcard tests/viewer)

check: lint types unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/python -m pytest -m "not slow and not peer" --ignore=tests/acceptance --ignore=tests/viewer --ignore=tests/hostile -n 2 --dist loadfile -q

# Every recipe on one small budget: processor seconds for each; what was trained stays in var/methods and goes on from there.
SECONDS_EACH ?= 240
methods: $(READY)
	$(BIN)/python -m inference.methods --data $(FOVEA_DATA) --work var/methods --seconds $(SECONDS_EACH) --out inference/METHODS.md

bench: $(READY)
	$(BIN)/python -m tests.benchmarks

# Each part by itself and within its own limit: `make -k soak` goes on where one fails, `make soak-kills` runs one.
SOAK_LIMIT_S ?= 10800
SOAKS := soak-outage soak-half_open soak-fuzz soak-kills
soak: $(SOAKS)

$(SOAKS): soak-%: $(READY)
	timeout $(SOAK_LIMIT_S) $(BIN)/python -m pytest tests/soak/test_$*.py -q -s -p no:cacheprovider --timeout=$(SOAK_LIMIT_S)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
