# Bildkante: the commands that people and CI share. `make` alone lists them.
#
#   DEPS=DIR      where set-up puts libtorch and tools (default: $BILDKANTE_DEPS, else .deps, which git ignores)
#   LIBTORCH=DIR  a libtorch 2.11.0 of your own; nothing is fetched then
#   CUDA=1        fetch and link libtorch with its CUDA 13.0 libraries (several GB)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

DEPS ?= $(or $(BILDKANTE_DEPS),.deps)
override DEPS := $(abspath $(DEPS))
export BILDKANTE_DEPS := $(DEPS)

cuda := $(filter 1 yes true,$(CUDA))
fetched_libtorch := $(DEPS)/libtorch$(if $(cuda),-cuda)
ifeq ($(strip $(LIBTORCH)),)
override LIBTORCH := $(fetched_libtorch)
endif
export LIBTORCH

binaries = $(abspath $(or $(CARGO_TARGET_DIR),target))/release

# In CI a Cargo.lock that does not fit is an error; at a desk cargo may update it.
locked := $(if $(filter true,$(CI)),--locked)

.PHONY: help
help: ## List the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

.PHONY: demo
demo: demo-build ## Build edge and node, start both, print what to open; Ctrl-C stops it all (PORT=9000 moves it)
	@scripts/demo.sh

# A build profile of its own: a release takes more than twice as long to build, and is a few percent faster.
.PHONY: demo-build
demo-build: toolchain nasm libtorch
	@echo "demo: building edge and node (about five minutes on two cores the first time; cargo shows how far it is)"
	cargo build $(locked) --profile demo --no-default-features -p bildkante-edge -p bildkante-gpu-node

.PHONY: test
test: setup ## Run every test, the end-to-end ones last
	@tests/setup/judges.sh "$(DEPS)"
	@scripts/test.sh $(locked)

.PHONY: test-edge
test-edge: toolchain codecs ## Run the edge's own tests: no libtorch needed
	@cargo test $(locked) -p bildkante-shared -p bildkante-edge

.PHONY: lint
lint: setup ## Check formatting, clippy, dependency licences, scripts and their types
	@scripts/toolchain.sh rustfmt clippy
	cargo fmt --all --check
	cargo clippy $(locked) --workspace --all-targets -- -D warnings
	deny=$$(scripts/cargo-deny.sh "$(DEPS)") && "$$deny" check licenses bans sources
	@scripts/typescript.sh "$(DEPS)"
	@scripts/apt.sh shellcheck=shellcheck
	git ls-files '*.sh' .ci/run | xargs shellcheck

.PHONY: openapi-check
openapi-check: release-edge ## Hold the admin API against its OpenAPI document with schemathesis (EXAMPLES=200 tries more)
	@scripts/openapi-check.sh "$(DEPS)" "$(binaries)/bildkante-edge"

.PHONY: bench
bench: bench-edge bench-diffusion ## Measure beside nginx, Varnish and diffusers, each in the same run

.PHONY: bench-edge
bench-edge: release-edge ## Cache hits beside nginx and Varnish (ROWS=h1-1k,h1-20k chooses, QUICK=1 only tries, BENCH='--rounds 3' adds options)
	@loadtest/bench/edge.sh "$(DEPS)" $(if $(ROWS),--rows $(ROWS)) $(if $(QUICK),--quick) $(BENCH)

.PHONY: bench-instructions
bench-instructions: release-edge ## Instructions of a hit in user space, counted by callgrind (BENCH='--before FILE' compares with `--json FILE` of another build)
	@scripts/apt.sh valgrind=valgrind
	@python3 loadtest/bench/edge/instructions.py --binaries "$$(realpath -m "$${CARGO_TARGET_DIR:-target}")/release" $(BENCH)

.PHONY: bench-start
bench-start: release-edge ## From the edge's start to its first image, over a million cached files (ENTRIES=100000 for less)
	@python3 loadtest/bench/edge/start.py --binaries "$$(realpath -m "$${CARGO_TARGET_DIR:-target}")/release" \
	  --entries $(or $(ENTRIES),1000000) $(BENCH)

.PHONY: bench-index
bench-index: toolchain ## The disk tier's index alone: bytes an entry, time to rebuild it, reads beside it and beside eviction
	BILDKANTE_ENTRIES=$(or $(ENTRIES),1000000) cargo test $(locked) --release -p bildkante-edge --lib -- \
	  --ignored --nocapture --test-threads=1 start_over_many_entries reads_beside_eviction

.PHONY: bench-kill
bench-kill: release-edge release-loadtest ## From an acknowledged kill to the last answer of the picture, over twenty edges at 2,000 requests a second (BENCH='--rounds 50')
	@"$(binaries)/bildkante-loadtest" kill --edge "$(binaries)/bildkante-edge" --rate 2000 --rounds 20 $(BENCH)
	cargo test $(locked) --release -p bildkante-edge --lib -- --ignored --nocapture start_and_look_up_over_many_kills

.PHONY: bench-watermark
bench-watermark: toolchain codecs ## The watermark after each attack, beside invisible-watermark; scores, speed, false detections (TRIALS=100000 for less)
	cargo build $(locked) --release -p bildkante-edge --example watermark_bench
	@loadtest/bench/watermark.sh "$(DEPS)" "$(binaries)/examples/watermark_bench" $(TRIALS)

.PHONY: bench-render
bench-render: toolchain codecs ## Milliseconds and bytes of every format, rung and size, and of the layers of a rendition; then bench-peers
	cargo run $(locked) --release -p bildkante-edge --example encode_bench
	cargo run $(locked) --release -p bildkante-edge --example layers_bench
	@$(MAKE) bench-peers

.PHONY: bench-peers
bench-peers: toolchain codecs ## Pictures that are rendered per second over HTTP at equal score, beside ipx, thumbor and oximg (builds and fetches them once; BENCH='--rounds 4' adds options)
	cargo build $(locked) --release -p bildkante-edge --bins --example encoder_curves
	@loadtest/bench/peers.sh "$(DEPS)" "$(binaries)" $(BENCH)

.PHONY: bench-check
bench-check: toolchain codecs ## Seconds that `check` takes for 5,000 variants with layers in 14 locales
	cargo run $(locked) --release -p bildkante-edge --example check_bench

.PHONY: bench-encoders
bench-encoders: toolchain codecs ## Bytes, score and time of every encoder on pictures it was not tuned on, beside sharp and avifenc (fetches 250 MB of pictures once; EVERY=4 takes fewer)
	cargo build $(locked) --release -p bildkante-edge --example encoder_curves
	@loadtest/bench/encoders.sh "$(DEPS)" "$(binaries)/examples/encoder_curves" $(or $(EVERY),1)

.PHONY: encoder-tables
encoder-tables: toolchain codecs ## Learn what quality reaches which score (edge/src/render/quality/tables.rs), after an encoder or its options were changed
	cargo build $(locked) --release -p bildkante-edge --example encoder_curves
	cargo build $(locked) --release --no-default-features --target-dir "$(binaries)/plain" -p bildkante-edge --example encoder_curves
	@loadtest/bench/encoders.sh --learn "$(DEPS)" "$(binaries)/examples/encoder_curves" $(or $(EVERY),1) \
	  "$(binaries)/plain/release/examples/encoder_curves"

.PHONY: bench-diffusion
bench-diffusion: release ## A node that serves beside Python diffusers: alone, loaded, mixed traffic, what exactness costs, cold start, memory (fetches and makes 15 GB once; BENCH='--workload studio' for less)
	@loadtest/bench/diffusion.sh "$(DEPS)" $(BENCH)

.PHONY: bench-dedup
bench-dedup: setup ## Look-ups of near-duplicates beside faiss, and what comparing masters takes (COUNTS="1000000" for less)
	cargo build $(locked) --release -p bildkante-gpu-node --example dedup_index_bench --example dedup_bench
	@gpu-node/bench/dedup.sh "$(DEPS)" "$(binaries)/examples" $(COUNTS)

.PHONY: check-dedup
check-dedup: setup ## Precision and recall of the thresholds of duplicates, on labelled pairs of the demo campaign (draws them once)
	cargo run $(locked) --release -p bildkante-gpu-node --example dedup_labels -- .bench/dedup-labels

.PHONY: bench-fairness
bench-fairness: release ## How long requests wait for others on one node: new classes, new adapter weights, other sizes (BEFORE=FILE measures an older node, too)
	@python3 gpu-node/bench/fairness.py $(BEFORE) "$(binaries)/bildkante-gpu-node"

.PHONY: cuda-check
cuda-check: release ## On a machine with a CUDA device, with CUDA=1: build, prove and time the node there in one go
	@gpu-node/bench/cuda.sh "$(DEPS)" "$$(realpath -m "$${CARGO_TARGET_DIR:-target}")/release"

.PHONY: fuzz
fuzz: setup ## Fuzz everything that reads bytes from outside (FUZZ_SECONDS=60 per target; TARGETS="url headers" picks some)
	@scripts/apt.sh nasm=nasm
	@scripts/fuzz.sh $(or $(FUZZ_SECONDS),60) $(TARGETS)

.PHONY: bench-memory
bench-memory: release-edge release-loadtest ## Resident memory of the edge: idle, after churn, after many distinct URLs
	@python3 loadtest/bench/edge/memory.py --binaries "$$(realpath -m "$${CARGO_TARGET_DIR:-target}")/release" $(BENCH)

.PHONY: soak
soak: setup release-edge release-loadtest ## The long forms of every test and load scenario, outside CI (STEPS='mixed idle' chooses)
	@SOAK_SECONDS=$(or $(SECONDS),3600) loadtest/soak.sh "$(DEPS)" $(STEPS)

.PHONY: soak-node
soak-node: setup ## Mixed requests to one node for an hour (SECONDS=600): every picture right, memory flat
	BILDKANTE_SOAK_SECONDS=$(or $(SECONDS),3600) cargo test $(locked) --release -p bildkante-gpu-node --test soak -- --nocapture

.PHONY: check-shapes
check-shapes: setup ## Whether any number of requests gives a network of a real one's size the bits of one alone, on the processor (MODEL=sdxl-base SIDE=512 REQUESTS=8 DTYPE=bf16)
	@gpu-node/bench/shapes.sh "$(DEPS)" $(or $(MODEL),sd15)

.PHONY: check-memory
check-memory: setup ## Whether the estimate of a drawing's memory holds for a network of a real one's size, on the processor (MODEL=sdxl-base SIZES="256x256" DTYPE=bf16)
	BILDKANTE_MODEL=$(or $(MODEL),sd15) BILDKANTE_SIZES="$(or $(SIZES),256x256 512x512)" BILDKANTE_DTYPE=$(or $(DTYPE),f32) \
	  cargo test $(locked) --release -p bildkante-gpu-node --test memory -- --ignored --nocapture real_size

.PHONY: soak-fleet
soak-fleet: setup ## Random histories of FLEET_EDGES=20 edges as processes, and of their logs, for FLEET_SECONDS=600 (BILDKANTE_FLEET_SEED repeats one)
	cargo build $(locked) --workspace --bins
	BILDKANTE_PATIENCE=$(or $(BILDKANTE_PATIENCE),5) BILDKANTE_FLEET_EDGES=$(or $(FLEET_EDGES),20) \
	  BILDKANTE_FLEET_SECONDS=$(or $(FLEET_SECONDS),600) BILDKANTE_HISTORIES=2000 cargo test $(locked) --workspace -- --nocapture histories

.PHONY: release
release: setup ## The release build of edge, node and load generator, stripped, with the debug information beside them
	@echo "building the release binaries (several minutes the first time)"
	cargo build $(locked) --release -p bildkante-edge -p bildkante-gpu-node -p bildkante-loadtest
	@scripts/debug-files.sh $(foreach name,edge gpu-node loadtest,"$(binaries)/bildkante-$(name)")

.PHONY: release-edge
release-edge: toolchain codecs
	cargo build $(locked) --release -p bildkante-edge --bins --example seed
	@scripts/debug-files.sh "$(binaries)/bildkante-edge"

.PHONY: release-loadtest
release-loadtest: toolchain
	cargo build $(locked) --release -p bildkante-loadtest
	@scripts/debug-files.sh "$(binaries)/bildkante-loadtest"

# What the C codecs of a release are built with.
.PHONY: codecs
codecs: nasm
	@scripts/apt.sh cmake=cmake || { echo "cmake builds libaom, the AV1 encoder; without it: cargo build --no-default-features" >&2; exit 1; }

.PHONY: nasm
nasm:
	@scripts/apt.sh nasm=nasm || { echo "nasm assembles the AV1 encoder's inner loops" >&2; exit 1; }

.PHONY: setup
setup: toolchain codecs libtorch ## What any build needs: checks the toolchain, fetches nasm, cmake and libtorch

.PHONY: env
env: setup ## Print the exports for calling cargo by hand (eval the output)
	@printf 'export LIBTORCH=%q\n' "$(LIBTORCH)"

.PHONY: toolchain
toolchain:
	@scripts/toolchain.sh

.PHONY: libtorch
libtorch:
ifeq ($(LIBTORCH),$(fetched_libtorch))
	@gpu-node/setup/libtorch.sh $(if $(cuda),--cuda) "$(LIBTORCH)" >/dev/null
else
	@test -d "$(LIBTORCH)/include" -a -d "$(LIBTORCH)/lib" || \
	  { echo "LIBTORCH=$(LIBTORCH) has no include/ and lib/: it must be a libtorch 2.11.0" >&2; exit 1; }
endif
