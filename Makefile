# Each target sets up all that it needs in .venv, on a machine with Python 3.11 to 3.13 and make.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
STAMP := .venv/.installed
WORK := work
SAMPLE := $(WORK)/sample
PREPARED := $(WORK)/prepared
# What is prepared already is left as it is.
PREPARE_SAMPLE = $(BIN)/python data_tools/preprocess_kinetics.py --videos $(SAMPLE)/videos \
	--short-side 40 --annotations $(SAMPLE)/annotations/train.csv \
	--annotations $(SAMPLE)/annotations/val.csv --annotations $(SAMPLE)/annotations/test.csv \
	--output $(PREPARED)

.PHONY: help install quickstart test test-slow test-cuda check bench lock

help:
	@echo "quickstart  make sample videos, prepare them, compare BatchNorm and GroupNorm, write a report"
	@echo "test        run the tests"
	@echo "check       format, lint, types and tests: the one command before a commit"
	@echo "test-slow   the tests that take minutes"
	@echo "test-cuda   the tests that need a GPU; they fail without one"
	@echo "bench       the benchmarks, side by side with the peers"
	@echo "lock        renew requirements.lock"

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "uv>=0.5"
	# Compiled once here: with PYTHONDONTWRITEBYTECODE set, each process would compile torch again.
	$(UV) pip sync --quiet --python $(BIN)/python --compile-bytecode --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

quickstart: $(STAMP) $(SAMPLE)/annotations/test.csv
	$(PREPARE_SAMPLE)
	$(BIN)/python launch.py compare configs/comparisons/quickstart.yaml

test: $(STAMP)
	$(BIN)/python -m pytest

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

test-cuda: $(STAMP)
	$(BIN)/python -m pytest -m cuda

check: $(STAMP)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(MAKE) test

$(SAMPLE)/annotations/test.csv: $(STAMP)
	$(BIN)/python data_tools/make_sample_kinetics.py --output $(SAMPLE)

bench: $(STAMP) $(SAMPLE)/annotations/test.csv
	$(PREPARE_SAMPLE)
	@mkdir -p $(WORK)/bench
	$(BIN)/python launch.py bench decode $(SAMPLE)/videos --frames 8 --json $(WORK)/bench/decode.json
	$(BIN)/python launch.py bench loader $(PREPARED) data.num_frames=8 data.crop_pixels=32 \
		"data.short_side_range_pixels=[36,44]" data.test_short_side_pixels=40 \
		--json $(WORK)/bench/loader.json
	$(BIN)/python launch.py bench norm --device cpu --json $(WORK)/bench/norm.json \
		--plot $(WORK)/bench/norm.svg

# uv itself is in no lock: it only makes and installs one.
lock:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "uv>=0.5"
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
		--extra dev --extra torchcodec --extra cluster --extra hub --extra export \
		pyproject.toml --output-file requirements.lock
