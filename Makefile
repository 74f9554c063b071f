# The commands of README.md. Plain `make` lists them. Needs Rust, a C compiler, make and perl; what else a target
# needs is said beside it.
#
# All of them build the whole workspace with all its targets, also where less would do: cargo gives dependencies other
# features when other packages are selected, and would then build the whole tree of them a second time.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

target := $(or $(CARGO_TARGET_DIR),target)
services := fixtures/services/services.sh
venv := $(target)/e2e-venv
airflow_venv := $(target)/airflow-venv
binary := $(target)/debug/deltaworks

.PHONY: help build test sim lint check-format demo e2e airflow bench soak services-start services-stop

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build everything that the other targets use (debug)
	cargo build --workspace --all-targets

test: ## unit and property tests; no services
	cargo test --workspace

# SEED (one at random) and STEPS (2000) say what is played; WITHOUT=3,17..40 leaves steps out, SHRINK=1 looks for a
# short list of steps that still fails, TRACE=1 tells how each step went.
sim: ## play the jobs against a model, on a topic and a store in memory that fail; SEED= replays
	DELTAWORKS_SIM_SEED="$(SEED)" DELTAWORKS_SIM_STEPS="$(STEPS)" DELTAWORKS_SIM_WITHOUT="$(WITHOUT)" DELTAWORKS_SIM_SHRINK="$(SHRINK)" DELTAWORKS_SIM_TRACE="$(TRACE)" \
		cargo test --workspace --lib -- --ignored --nocapture simulation_by_hand

check-format: ## is everything formatted
	cargo fmt --all --check

# As `cargo clippy --all-targets -- -D warnings`, but by `cargo build`: `cargo clippy` is a `cargo check`, which shares
# no dependency with a build.
lint: check-format ## format and clippy, warnings are errors
	RUSTC_WORKSPACE_WRAPPER="$$(rustc --print sysroot)/bin/clippy-driver" CLIPPY_ARGS=-Dwarnings \
		cargo build --workspace --all-targets

demo: build ## land the traffic fixture, killed and restarted in the middle; no services
	$(binary) demo

services-start: ## get and start Kafka and MinIO for e2e; needs java 17, mvn, go, curl
	$(services) install
	$(services) start

services-stop: ## stop what services-start started
	$(services) stop

# Tests that need a broker and a store are #[ignore]d, so that `make test` needs neither. E2E_TRUTH is the folder where
# they leave, per landed table, NAME.jsonl (what was produced) and NAME.raw and NAME.rejects (the tables' URLs), and
# NAME.windows (where batch tables are, and up to when they are complete). E2E_PYTHON has these readers, for the test in
# which they look on while a table changes.
# DELTAWORKS_SOAK_SECONDS (60) is how long each kill loop goes on, DELTAWORKS_WATCH_SECONDS (40) how long readers look on.
e2e: build services-start $(venv)/complete ## end to end on real Kafka and MinIO, then three other readers; needs python3 too
	eval "$$($(services) env)"; \
	export E2E_TRUTH="$(abspath $(target))/e2e-truth"; \
	export E2E_PYTHON="$(abspath $(venv))/bin/python"; \
	export DELTAWORKS_E2E_S3="s3://$$DELTAWORKS_S3_BUCKET/conformance"; \
	rm -rf "$$E2E_TRUTH"; mkdir -p "$$E2E_TRUTH"; \
	$(venv)/bin/python fixtures/cases/expected.py; \
	cargo test --workspace --lib -- --ignored on_s3; \
	cargo test --workspace --test it -- --ignored e2e --test-threads=3; \
	for truth in "$$E2E_TRUTH"/*.jsonl; do \
		raw=$$(<"$${truth%.jsonl}.raw"); rejects=$$(<"$${truth%.jsonl}.rejects"); \
		$(venv)/bin/python fixtures/e2e/readers.py --truth "$$truth" --raw "$$raw" --rejects "$$rejects"; \
	done; \
	for windows in "$$E2E_TRUTH"/*.windows; do $(venv)/bin/python fixtures/e2e/windows.py "$$windows"; done

$(venv)/complete: fixtures/e2e/requirements.txt
	python3 -m venv --clear $(venv)
	$(venv)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

airflow: build services-start $(airflow_venv)/complete ## docs/scheduling.md in a real Airflow, and as cron would run it; needs python3 too
	eval "$$($(services) env)"; \
	$(airflow_venv)/bin/python fixtures/e2e/airflow/run.py --binary $(binary) --work $(target)/airflow

$(airflow_venv)/complete: fixtures/e2e/airflow/requirements.txt
	python3 -m venv --clear $(airflow_venv)
	$(airflow_venv)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

# BENCH_ONLY=landing, batch, speed, reconcile, visible, files, compact or steady runs one part; DELTAWORKS_BINARY measures another build.
bench: services-start $(venv)/complete ## speed and memory against a plain loop, DuckDB and Polars; what serving costs and how soon (release build)
	eval "$$($(services) env)"; export BENCH_PYTHON="$(abspath $(venv))/bin/python"; cargo bench --workspace --bench speed

# Built as `bench` builds it: another selection would give dependencies other features.
soak: build services-start ## the kill loops, of stream and of run, with the release binary, ten minutes (DELTAWORKS_SOAK_SECONDS)
	cargo bench --workspace --bench speed --no-run
	eval "$$($(services) env)"; \
	DELTAWORKS_BINARY="$(abspath $(target))/release/deltaworks" DELTAWORKS_SOAK_SECONDS="$${DELTAWORKS_SOAK_SECONDS:-600}" \
		cargo test --workspace --test it -- --ignored e2e::kills e2e::soak --test-threads=3 --nocapture
