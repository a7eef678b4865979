# make          builds the static binary, and the small glibc program that asks NVML for MIG UUIDs
# make demo     the first minute: a real container gets a GPU (simulated where there is none)
# make test     everything that is tested, with all its own set-up; needs root, cargo, cc, make and apt
# make test-fast   the tests of the time between two edits: unit, property and golden tests, one host, one hostile case of each class
# make lint     formatting, clippy, and the rules that hold the design together
# make package  .deb, .rpm and tarball in target/package; MACHINE=aarch64 for the other machine
# make miri asan   the unit tests of the pure modules under Miri; all unit and property tests with AddressSanitizer (nightly)
# make bench    what it costs, beside the bare runtime, in one run
# make counts   what a start costs in system calls, page faults, forks and bytes read; fails where it has grown

SHELL := /bin/bash
# The musl target where it can be had, else static glibc.
MUSL := $(shell uname -m)-unknown-linux-musl
TARGET := $(shell rustup target list --installed 2>/dev/null | grep -qx $(MUSL) || rustup target add $(MUSL) >/dev/null 2>&1; \
	rustup target list --installed 2>/dev/null | grep -qx $(MUSL) && echo $(MUSL) || echo $(shell uname -m)-unknown-linux-gnu)
ifneq ($(TARGET),$(MUSL))
export RUSTFLAGS := -C target-feature=+crt-static
endif
export NVOCI_BIN := $(CURDIR)/target/$(TARGET)/release/nvoci
CARGO := cargo

.PHONY: all build package demo test test-fast unit suite integration lint miri asan bench counts
all: build

build:
	$(CARGO) build --locked --release --target $(TARGET)
	$(CARGO) build --locked --release --target $(TARGET) -p nvoci-nri
	$(CC) -O2 -Wall -Wextra -o $(dir $(NVOCI_BIN))nvoci-nvml nvml/nvoci-nvml.c -ldl

# The other machine's binary is linked by Rust's own linker: no foreign compiler is needed.
MACHINE ?= $(shell uname -m)
package: build
ifneq ($(MACHINE),$(shell uname -m))
	rustup target add $(MACHINE)-unknown-linux-musl
	export CARGO_TARGET_$(shell echo $(MACHINE) | tr a-z A-Z)_UNKNOWN_LINUX_MUSL_LINKER=rust-lld && \
	  $(CARGO) build --locked --release --target $(MACHINE)-unknown-linux-musl && \
	  $(CARGO) build --locked --release --target $(MACHINE)-unknown-linux-musl -p nvoci-nri
endif
	packaging/build target/package $(if $(filter $(MACHINE),$(shell uname -m)),$(NVOCI_BIN),target/$(MACHINE)-unknown-linux-musl/release/nvoci) $(MACHINE) $(NVOCI_BIN)

# The program alone, without the optimizations of a release: most of the first minutes are the compiler's.
demo: export NVOCI_BIN := $(CURDIR)/target/$(TARGET)/demo/nvoci
demo:
	@echo '[1/7] building nvoci (a minute; later runs take a second)'
	$(CARGO) build --locked --profile demo --target $(TARGET)
	demo/run

test: unit integration

test-fast: unit suite
	$(CARGO) build --locked --target $(TARGET)
	NVOCI_BIN= NVOCI_SUITE= integration/fast

# The bounds of time and memory (tests/bounds) hold for the release build.
unit: build
	NVOCI_BOUNDS_BIN=$(NVOCI_BIN) $(CARGO) test --locked --workspace --target $(TARGET)

# The typed hostile cases: integration/suite.
suite:
	$(CARGO) build --locked --target $(TARGET) -p nvoci-suite

integration hostile-long: export NVOCI_SUITE := $(CURDIR)/target/$(TARGET)/debug/nvoci-suite
integration: build suite
	integration/run

# Both machines that packages are made for: the other one is checked as far as a compiler can without linking.
LINTED := $(TARGET) $(if $(filter $(MUSL),$(TARGET)),$(filter-out $(MUSL),x86_64-unknown-linux-musl aarch64-unknown-linux-musl))
lint:
	cargo fmt --all --check
	rustup target add $(LINTED)
	for target in $(LINTED); do $(CARGO) clippy --locked --workspace --target $$target --all-targets -- -D warnings || exit 1; done
	integration/gates

miri:
	integration/miri

asan:
	integration/asan

bench: build
	integration/bench/run

counts: build
	integration/counts/run

# chart          the Helm chart: lint, schema, and its rendered manifests written anew (needs PyPI's helm-python-sdk)
# test-machines  what needs a kernel of its own: other versions, aarch64, SELinux and AppArmor, in user-mode Linux and qemu
# test-engines   engines of Debian bullseye, trixie and experimental, and the .rpm under dnf5 and zypper, in simulated hosts
# test-nri       the NRI plugin in a real containerd 2.1
# test-cluster   the chart, the image and the NRI plugin on Kubernetes 1.20.2, which it builds first (20 minutes, once)
# test-browser   the doctor's HTML reports in a headless Chromium: phone and desktop, light and dark
# hostile-long   what CI takes a sample of: 10,000 starts against a race, 1,000 creates, every fault
# reproducible   the release binary, built twice and compared
# book           the documentation as HTML in target/book, by mdBook, with its links checked
# sbom           what is in it, as CycloneDX
# release        all files of a release in target/release-files, for both machines (docs/releasing.md)
# release-check  those files checked as a user checks them: sums, signature, SBOMs, provenance, packages; the crates packaged
# test-first-minutes  the commands of README.md and docs/install.md, typed on three systems: seconds, and what is left after the removal
# lint-files     scripts, spelling, workflows; crates' licences and sources where cargo-deny is installed
# msrv           the workspace checked by the oldest Rust that Cargo.toml promises
.PHONY: chart test-machines test-engines test-nri test-cluster test-browser hostile-long reproducible book sbom release
.PHONY: release-check test-first-minutes lint-files msrv
chart:
	integration/chart/run --write

test-machines: build suite
	rustup target add aarch64-unknown-linux-musl
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld $(CARGO) build --locked --release --target aarch64-unknown-linux-musl
	integration/machines/run

test-engines: build
	integration/compatibility/run

test-nri: build
	NVOCI_NRI_BIN=$(dir $(NVOCI_BIN))nvoci-nri integration/nri/run

test-cluster: build
	integration/cluster/run

test-browser: build
	integration/browser/run

hostile-long: build suite
	integration/world/make
	HOSTILE_LONG=1 integration/hostile/run
	FAULTS_LONG=1 integration/faults/run

reproducible:
	integration/reproducible $(TARGET)

book:
	integration/docs/book

sbom:
	@integration/sbom $(TARGET)

release:
	packaging/release target/release-files

release-check:
	integration/release/run target/release-files

test-first-minutes: build
	integration/first-minutes/run

lint-files:
	integration/lint-files

# The toolchain that was the newest when the version was chosen; Cargo.lock holds the dependencies to it.
MSRV := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
msrv:
	rustup toolchain install $(MSRV) --profile minimal --target $(TARGET)
	CARGO_TARGET_DIR=target/msrv $(CARGO) +$(MSRV) check --locked --workspace --target $(TARGET)
