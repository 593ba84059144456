# Kasho. "make test" checks everything; it needs Debian's PostgreSQL and Redis, and
# installs what is missing (.ci/setup).

CARGO ?= cargo

.DEFAULT_GOAL := test
.PHONY: setup test lint guests fmt demo bench matrix soak

setup:
	@.ci/setup

# Benchmarks, in their smallest size and for nobody's figures, and examples come first: so
# the last line is the test runner's own summary.
# A test says itself what it saw: a backtrace behind it hides that. RUST_BACKTRACE=1 as an
# argument brings it back.
test: export RUST_BACKTRACE = 0
test: setup lint guests
	@TINY=1 $(CARGO) bench --locked --profile dev -p kasho-tests --bench bench
	@$(CARGO) test --workspace --locked --doc
	@$(CARGO) test --workspace --locked --tests

lint: setup
	$(CARGO) fmt --all --check
	.ci/deny
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

# The plugins as .wasm, where the tests look for them.
guests: setup
	$(CARGO) build --locked --profile guest --target wasm32-unknown-unknown \
	  --target-dir "$${CARGO_TARGET_DIR:-target}/guests" $(patsubst plugins/%/Cargo.toml,-p kasho-%,$(wildcard plugins/*/Cargo.toml))

# A database loaded and streamed through two plugins; ARGS=--keep leaves it running.
demo: setup guests
	$(CARGO) build --locked --release --bin kasho
	@config/demo/run $(ARGS)

# Ratios to baselines of the same run; QUICK=1 for less, BENCH=drain,memory for parts.
bench: setup guests
	$(CARGO) build --locked --release --bin kasho
	@KASHO_BIN="$$(realpath "$${CARGO_TARGET_DIR:-target}")/release/kasho" $(CARGO) bench --locked -p kasho-tests --bench bench

# The end-to-end tests on other servers, which are fetched: not part of "make test".
# VERSIONS="17 valkey" for some of them, TESTS="types states" for some of the tests.
matrix: setup guests
	@tests/matrix

# Random workloads whose target is held against PostgreSQL's own subscription, or, where they
# change the schema, against the source: SEEDS=500 for the first 500, SEEDS=51-80 or SEEDS=7,9
# for these, STEPS=1000 for longer ones.
soak: setup guests
	ORACLE_SEEDS="$(or $(SEEDS),200)" ORACLE_STEPS="$(or $(STEPS),120)" \
	  $(CARGO) test --locked -p kasho-tests --test e2e oracle::workloads -- --nocapture --test-threads=1

fmt:
	$(CARGO) fmt --all
