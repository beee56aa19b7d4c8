# The front door: demo, test, verify, oasis, bench, fuzz, pq, simulate. Each installs what it needs first.
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
# For tests: other people's clients and tools (see scripts/setup.sh).
export QKM_VENV ?= $(abspath $(TARGET))/venv
export PATH := $(PATH):$(abspath $(TARGET))/tools/usr/bin
# Most tests wait most of the time: for timers, other processes, disks.
export NEXTEST_TEST_THREADS ?= $(shell expr 2 '*' $$(nproc))

.PHONY: demo test verify kill faults hsm-faults pq oasis bench fuzz simulate

## Runs a small network on loopback. ARGS="--keep DIR" keeps its files.
demo:
	@scripts/setup.sh
	$(CARGO) build --release --locked -p qkm
	@exec $(TARGET)/release/qkm demo $(ARGS)

## All tests, third-party clients included.
test:
	@scripts/setup.sh tests
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(CARGO) nextest run --workspace --locked $(ARGS) && \
		$(CARGO) test --workspace --locked --doc; \
	else \
		$(CARGO) test --workspace --locked $(ARGS); \
	fi

## What must hold before a change goes in.
verify:
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@$(MAKE) --no-print-directory test

## kill -9 of either KM under load, 200 times (`make test` does 20), and of the source, the middle and
## the destination of a relay, 100 times (`make test` does 6).
kill:
	@scripts/setup.sh tests
	QKM_KILLS=200 $(CARGO) test --locked -p qkm-tests --test kill -- --nocapture
	QKM_KILLS=100 $(CARGO) test --locked -p qkm-tests --test kill_relay -- --nocapture

## The OASIS KMIP test cases over the socket, also those of 1.4 as 1.3 and of 2.1 as 2.0, as a table and in
## target/oasis/results.json.
## ARGS="--dir DIR" takes other files than those of ../shared/oasis-kmip.
oasis:
	@scripts/setup.sh
	@$(CARGO) run --quiet --locked -p qkm-tests --bin oasis -- $(ARGS)

## Faults of the KMs and the engine of a cluster under load, FAULTS (500) of them; figures also in
## target/faults/results.json (`make test` does half of the kinds, others each time). Among them upgrades
## from the build of another commit (PREVIOUS=HEAD~1; PREVIOUS= for none). RELEASE=1: as users build it.
PREVIOUS ?= HEAD~1
faults: RELEASED := $(if $(RELEASE),--release)
faults:
	@scripts/setup.sh tests
	previous=$(if $(PREVIOUS),$$(scripts/previous.sh $(PREVIOUS) $(RELEASED))) && \
	QKM_PREVIOUS=$$previous QKM_CLUSTER_FAULTS=$(or $(FAULTS),500) \
		$(CARGO) test $(RELEASED) --locked -p qkm-tests --test cluster -- --nocapture --test-threads=1

## Every fault of the HSM library at every function the KM calls (`make test` does a choice).
hsm-faults:
	QKM_FAULTS=all $(CARGO) test --locked -p hsm-profiles --test faults -- --nocapture

## The HSM suite on a token with EdDSA, ML-KEM and ML-DSA: Kryoptic over an OpenSSL newer than
## Debian's. Builds both once, about five minutes of one processor.
pq:
	@scripts/setup.sh tests
	$(CARGO) build -q --release --locked --manifest-path testkit/kryoptic/Cargo.toml \
		--no-default-features --features pq --target-dir $(TARGET)/tools/kryoptic-pq
	QKM_PQ=1 $(CARGO) test --locked -p hsm-profiles --test kryoptic_suite --test examine \
		--test using --test post_quantum

## Networks in simulated time, 10,000 hours in all (`make test` does some).
simulate:
	QKM_SIM_HOURS=$(or $(HOURS),10000) $(CARGO) test --release --locked -p netsim --test networks -- --nocapture --include-ignored

## Speed, as a table and in target/bench/results.json.
bench:
	@scripts/setup.sh
	$(CARGO) build --release --locked -p qkm
	$(CARGO) bench --locked -p qkm-tests --bench qkm -- $(ARGS)

## Each fuzz target for SECONDS (60). Needs nightly Rust and cargo-fuzz.
SECONDS ?= 60
fuzz:
	@$(CARGO) +nightly fuzz --version >/dev/null 2>&1 || { \
		echo "needs: rustup toolchain install nightly && cargo install cargo-fuzz" >&2; exit 1; }
	@for name in $$($(CARGO) +nightly fuzz list); do \
		echo "== $$name"; \
		mkdir -p fuzz/target/corpus/$$name; \
		$(CARGO) +nightly fuzz run $$name fuzz/target/corpus/$$name fuzz/corpus/$$name -- \
			-max_total_time=$(SECONDS) || exit 1; \
	done
