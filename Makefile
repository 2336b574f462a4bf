# The commands of the project. Each is a script in tools/, which says what it does.

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

run: ## Build, and compare the kernel's own scheduler and ours in a guest: 5 minutes
	@tools/run

try: ## Show a scheduler of examples/ at work in a guest: make try EXAMPLE=fifo
	@tools/try "$(EXAMPLE)"

run-here: ## Run the scheduler on this machine, until Ctrl-C (as root)
	@tools/run-here

build: setup ## Build the scheduler: target/release/scx_manyland
	@BPF_CLANG=$$(tools/clang) cargo build --release

install: ## Install program, manual pages, completions: make install DESTDIR=... PREFIX=/usr
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" tools/install

deb: ## Build the Debian package with its service: target/deb/
	@tools/deb

check: ## Formatting, lints, and the tests that need neither root nor a guest
	@tools/check

format: ## Format the Rust code and the BPF side's C
	@tools/format

test: ## All of check, the documentation, and the tests in guests
	@tools/test

sanitize: ## The simulator's tests, with bad memory accesses and undefined behaviour of bpf/ found
	@tools/sanitize

seeds: setup ## Let paths through the kernel overlap in the simulator: make seeds SEEDS=5000
	@BPF_CLANG=$$(tools/clang) INTERLEAVED_SEEDS=$(or $(SEEDS),5000) \
		cargo test --release --test interleaved no_task -- --nocapture

test-large: setup ## The tests on a guest of 64 CPUs on 4 NUMA nodes, some minutes long
	@BPF_CLANG=$$(tools/clang) cargo run --release --package guest -- --ignored large::

test-package: ## The Debian package in a guest with systemd: install, upgrade, reboot, purge (as root)
	@tools/test-package

test-slow: setup ## Guest tests that take long, or many guests, and seldom fail
	@BPF_CLANG=$$(tools/clang) cargo run --release --package guest -- --ignored slow::

test-kernels: ## Attach, load and stop the threads on every other kernel series that is supported
	@tools/test-kernels

reliability: ## All faults of docs/reliability.md in full, and its table (1 to 3 hours)
	@tools/reliability

soak: ## All faults mixed at random: make soak MINUTES=30 SEED=1
	@MINUTES="$(MINUTES)" SEED="$(SEED)" tools/soak

fuzz: ## Fuzz what reads data from outside: make fuzz SECONDS=60 (needs nightly Rust and cargo-fuzz)
	@tools/fuzz $(SECONDS)

deny: ## Licences, sources and known holes of all crates (needs cargo-deny)
	@tools/deny

compare: ## Compare the kernel's own scheduler and ours in a guest (see tools/compare)
	@tools/compare

bench: ## What a decision costs on this machine, in time and in instructions, part by part
	@tools/bench

count: ## Instructions of the BPF side for each kind of wake-up, by function: make count LEAST=20
	@LEAST="$(LEAST)" tools/count

compare-simulator: ## Play a workload in a guest and in the simulator
	@tools/compare-simulator

measure-costs: setup ## Measure on this machine what of the simulator's costs can be
	@BPF_CLANG=$$(tools/clang) cargo run --release --package tools --bin measure_costs

plot-scale: setup ## Simulate machines of up to 1,024 CPUs, and draw docs/scale.svg
	@BPF_CLANG=$$(tools/clang) cargo run --release --package tools --bin plot_scale -- \
		docs/scale.svg $(TOPOLOGY)

setup: ## Install what is missing (Debian, Ubuntu), or list it
	@tools/setup

.PHONY: bench build check compare compare-simulator count deb deny format fuzz help install \
	measure-costs plot-scale reliability run run-here sanitize seeds setup soak test test-kernels \
	test-large test-package test-slow try
