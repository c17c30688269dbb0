# `make demo` and `make test` do all set-up on a fresh Debian or Ubuntu machine with a Rust toolchain.

SHELL := /bin/bash
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
CARGO ?= cargo
# What the build and the tests need of Debian. Nothing of it is needed on a host that only runs stack.
BUILD_PACKAGES := gcc libseccomp-dev pkg-config make
DEMO_PACKAGES := $(BUILD_PACKAGES) curl jq
TEST_PACKAGES := $(BUILD_PACKAGES) busybox-static runc docker-registry apache2-utils nftables iproute2 curl jq python3 python3-pip \
	qemu-system-x86 debootstrap e2fsprogs xz-utils checkpolicy
BENCH_PACKAGES := busybox-static iproute2 curl jq dnsmasq-base

.PHONY: all build static demo test bench bench-networks profile fix lint packages demo-packages test-packages

all: build static

packages:
	@scripts/install-packages $(BUILD_PACKAGES)

demo-packages:
	@scripts/install-packages $(DEMO_PACKAGES)

test-packages:
	@scripts/install-packages $(TEST_PACKAGES)
	@scripts/test-clients

# The daemon and the client, for this machine.
build: packages
	$(CARGO) build --release -p stack-cli -p stackd -p stack-tunnel

# The shim and the example application: static, as they run where there are no libraries.
static: packages
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --profile shim --target $(HOST) -p stack-shim -p visits
	install -D target/$(HOST)/shim/stack-shim target/release/stack-shim

demo: demo-packages build static
	@$(SUDO) env PATH="$(CURDIR)/target/release:$$PATH" VISITS="$(CURDIR)/target/$(HOST)/shim" scripts/demo

test: test-packages
	@scripts/test

# Where dockerd is installed, the same work is given to it in the same run.
bench: build static
	@scripts/install-packages $(BENCH_PACKAGES)
	$(CARGO) build --release -p stack-controller --example write_benchmark
	$(CARGO) build --release -p stack-docker-api --example container_benchmark
	@$(SUDO) env PATH="$(CURDIR)/target/release:$$PATH" \
		CONTAINER_BENCHMARK="$(CURDIR)/target/release/examples/container_benchmark" \
		WRITE_BENCHMARK="$(CURDIR)/target/release/examples/write_benchmark" scripts/bench
	@$(MAKE) --no-print-directory bench-networks

# The networks between hosts beside what they are made of, and the name server beside a plain one.
bench-networks: build
	@scripts/install-packages $(BENCH_PACKAGES)
	$(CARGO) build --release -p stack-engine --example network_benchmark --example name_server_benchmark
	@$(SUDO) target/release/examples/network_benchmark
	@$(SUDO) target/release/examples/name_server_benchmark

# Where the time of a start goes.
profile: build static
	@scripts/install-packages $(BENCH_PACKAGES)
	$(CARGO) build --release -p stack-docker-api --example container_benchmark
	@$(SUDO) env PATH="$(CURDIR)/target/release:$$PATH" \
		CONTAINER_BENCHMARK="$(CURDIR)/target/release/examples/container_benchmark" scripts/profile-starts

lint: packages
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

fix:
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all
