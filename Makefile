# The commands of the project. Each is a script in tools/, which says what it does.

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

run: ## Build, and show the scheduler at work on a real kernel in a guest
	@tools/run

try: ## Show a scheduler of examples/ at work in a guest: make try EXAMPLE=fifo
	@tools/try "$(EXAMPLE)"

run-here: ## Run the scheduler on this machine, until Ctrl-C (as root)
	@tools/run-here

build: setup ## Build the scheduler: target/release/scx_manyland
	@BPF_CLANG=$$(tools/clang) cargo build --release

test: ## Formatting, lints, and all tests, those in guests included
	@tools/test

test-large: setup ## The tests on a guest of 64 CPUs on 4 NUMA nodes, which take some minutes
	@BPF_CLANG=$$(tools/clang) cargo test --release --test guest -- --ignored

compare: ## Compare the kernel's own scheduler and ours, taking turns in a guest (tools/compare says more)
	@tools/compare

bench: ## What a decision costs on this machine, in time and in instructions, part by part
	@tools/bench

setup: ## Install what is missing (Debian, Ubuntu), or list it
	@tools/setup

.PHONY: help bench compare run run-here try build test test-large setup
