# make run    from nothing to a container in a virtual machine
# make test   every check, as CI does it
# make build  target/release/kata and target/release/kata-agent
# make software  real software in virtual machines: takes long
# make engines   newer engines than this machine's, out of trees of other suites: takes long
# make cri    what Kubernetes does with many pods: takes long
# make kubernetes  a kubelet with its control plane, compiled once: takes long
# make table  what which client was seen to do in the last test
# make deploy-image  the installer of a node of Kubernetes, as an image
# make deb    a package for Debian and its kin
# make lab    CMD='…', or a shell, where KVM works: an emulated machine if need be
SHELL := /bin/bash
.SHELLFLAGS := -eo pipefail -c
.NOTPARALLEL:
.PHONY: build run test bench bench-build bench-ab bench-suite install lint unit vm fuzz clean setup guest deny torture lab lab-test lab-build man completions deb \
	deb-test software engines cri kubernetes table deploy-tools deploy-image

PREFIX ?= /usr/local
OUT := $(or $(CARGO_TARGET_DIR),target)
BIN := $(OUT)/release
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
TRIPLE := x86_64-unknown-linux-gnu
CARGO := PATH="$$PATH:$$HOME/.cargo/bin" cargo
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)

# The agent is PID 1 of a guest without libraries: static. --target keeps that flag away from build scripts.
build:
	scripts/setup build
	$(CARGO) build --release --locked -p kata
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --profile guest --locked -p agent --target $(TRIPLE)
	install -m 755 $(OUT)/$(TRIPLE)/guest/kata-agent $(BIN)/kata-agent

guest: build
	scripts/setup run
	$(SUDO) $(BIN)/kata guest build

run: guest
	scripts/demo-image $(OUT)/demo-image
	@echo "kernel of the host:  $$(uname -sr)"
	$(SUDO) $(BIN)/kata run --rm oci:$(OUT)/demo-image sh -c 'echo "kernel of the guest: $$(uname -sr)"'

test: setup lint deny unit vm lab-test fuzz
	scripts/skipped $(OUT)/deny.log $(OUT)/unit.log $(OUT)/vm.log $(OUT)/lab.log
	scripts/behaviours $(OUT)/vm.log

setup:
	scripts/setup

lint:
	mkdir -p $(OUT)
	scripts/check-headers
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

deny:
	PATH="$$PATH:$$HOME/.cargo/bin" scripts/deny 2>&1 | tee $(OUT)/deny.log

# What renders and checks the chart.
deploy-tools:
	scripts/deploy-tools $(OUT)/tools

unit: deploy-tools
	$(CARGO) test --workspace --exclude vm-tests --locked -- --show-output 2>&1 | tee $(OUT)/unit.log

# What applications do to files, as a program that runs in a guest: static, as the agent.
torture: build
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --profile guest --locked -p devices --example posix_torture --target $(TRIPLE)
	install -D -m 755 $(OUT)/$(TRIPLE)/guest/examples/posix_torture $(BIN)/examples/posix_torture

# Real virtual machines: needs root.
vm: guest torture
	$(SUDO) $(BIN)/kata guest template build
	KATA_BIN_DIR=$(abspath $(BIN)) $(CARGO) test --locked -p vm-tests --test vm 2>&1 | tee $(OUT)/vm.log

# Databases, servers, languages and compilers, out of a Debian that is made once. `make test` has some of them, where it is there.
software: guest
	scripts/setup test software
	$(SUDO) scripts/software-tree $(OUT)/software
	$(SUDO) $(BIN)/kata guest template build
	KATA_TEST_SOFTWARE=all KATA_TEST_DEADLINE=600 KATA_BIN_DIR=$(abspath $(BIN)) $(CARGO) test --locked -p vm-tests --test vm -- software:: 2>&1 | \
		tee $(OUT)/software.log

# What the tests do with this machine's engines, with those of other suites, which are made once. With more at once, too.
SUITES ?= trixie sid
engines: guest
	scripts/setup run test engines
	for suite in $(SUITES); do $(SUDO) scripts/engine-tree $$suite $(OUT)/engines || exit; done
	$(SUDO) $(BIN)/kata guest template build
	KATA_TEST_ENGINES=all KATA_BIN_DIR=$(abspath $(BIN)) $(CARGO) test --locked -p vm-tests --test vm -- @ 2>&1 | tee $(OUT)/engines.log
	scripts/behaviours $(OUT)/engines.log

# Pods by the dozen, and a container that is made anew again and again. `make test` has the rest of the group.
cri: guest
	scripts/setup test
	$(SUDO) $(BIN)/kata guest template build
	KATA_TEST_CRI=all KATA_BIN_DIR=$(abspath $(BIN)) $(CARGO) test --locked -p vm-tests --test vm -- cri:: 2>&1 | tee $(OUT)/cri.log
	KATA_TEST_CRI=all KATA_BIN_DIR=$(abspath $(BIN)) $(CARGO) test --locked -p vm-tests --test vm -- scale::pods 2>&1 | tee -a $(OUT)/cri.log
	scripts/behaviours $(OUT)/cri.log

# A cluster of one node, with kubectl.
kubernetes: guest
	scripts/setup test kubernetes
	scripts/kubernetes-tree $(OUT)/kubernetes
	$(SUDO) $(BIN)/kata guest template build
	KATA_TEST_KUBERNETES=$(abspath $(OUT)/kubernetes) KATA_TEST_DEADLINE=300 KATA_BIN_DIR=$(abspath $(BIN)) \
		$(CARGO) test --locked -p vm-tests --test vm -- kubernetes:: 2>&1 | tee $(OUT)/kubernetes.log
	scripts/behaviours $(OUT)/kubernetes.log

table:
	scripts/behaviours $(wildcard $(OUT)/vm.log $(OUT)/engines.log $(OUT)/cri.log $(OUT)/kubernetes.log)

lab-build: guest
	$(CARGO) build --release --locked -p lab

# CMD goes by the environment, and unexpanded: its quotes and dollars are its own.
CMD ?= bash
override CMD := $(value CMD)
export CMD
lab: lab-build
	@$(SUDO) $(BIN)/lab $(OUT)/lab "$$CMD"

lab-test: lab-build
	PATH="$$PATH:$$HOME/.cargo/bin" lab/test $(abspath $(BIN)) $(OUT)/lab 2>&1 | tee $(OUT)/lab.log

fuzz:
	PATH="$$PATH:$$HOME/.cargo/bin" scripts/fuzz 10

bench-build: build
	$(CARGO) build --release --locked -p bench
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --profile guest --locked -p bench-worker --target $(TRIPLE)
	install -m 755 $(OUT)/$(TRIPLE)/guest/bench-worker $(BIN)/bench-worker

# ARGS='start memory --runs 9 --json FILE': see `bench --help`.
bench: guest bench-build
	$(SUDO) env KATA_BIN_DIR=$(abspath $(BIN)) $(BIN)/bench $(ARGS)

# Two revisions beside each other: A=REV B=REV, and ARGS as above.
bench-ab: bench-build
	PATH="$$PATH:$$HOME/.cargo/bin" bench/ab $(OUT)/ab $(BIN)/bench $(A) $(B) $(ARGS)

# The tests of containers, where machines begin as copies of a template and where each one boots.
bench-suite: guest torture
	scripts/setup test
	$(SUDO) env PATH="$$PATH:$$HOME/.cargo/bin" bench/suite $(BIN)

# Pages and completions come from the definitions of the command lines.
man: build
	$(BIN)/kata pages man $(OUT)/man

completions: build
	for shell in bash zsh fish; do $(BIN)/kata pages $$shell $(OUT)/completions/$$shell; done

# Does not build: run `make build` first, not as root.
SHARE = $(DESTDIR)$(PREFIX)/share
# Where zsh looks for completions: below /usr, Debian has a place for those of packages.
ZSH ?= site-functions
install:
	install -D -m 755 $(BIN)/kata $(DESTDIR)$(PREFIX)/bin/kata
	ln -sf kata $(DESTDIR)$(PREFIX)/bin/kata-runtime
	ln -sf kata $(DESTDIR)$(PREFIX)/bin/containerd-shim-kata-v2
	install -D -m 755 $(BIN)/kata-agent $(DESTDIR)$(PREFIX)/libexec/kata/kata-agent
	test -e $(DESTDIR)/etc/kata/config.toml || install -D -m 644 packaging/config.toml $(DESTDIR)/etc/kata/config.toml
	$(BIN)/kata pages man $(SHARE)/man
	$(BIN)/kata pages bash $(SHARE)/bash-completion/completions
	$(BIN)/kata pages zsh $(SHARE)/zsh/$(ZSH)
	$(BIN)/kata pages fish $(SHARE)/fish/vendor_completions.d
	install -D -m 644 -t $(SHARE)/doc/kata/examples packaging/examples/*
	sed -i 's|/usr/bin/|$(PREFIX)/bin/|' $(SHARE)/doc/kata/examples/*

deb: build
	scripts/setup deb
	scripts/deb $(BIN) $(OUT)

# Installs it in a fresh Debian, uses it and removes it: needs root and the archive. Not a part of `make test`: it takes minutes.
deb-test: deb
	scripts/setup deb-test
	$(SUDO) scripts/deb-test $(OUT)/kata_$(VERSION)_amd64.deb

# The installer of a node of Kubernetes, with buildah: IMAGE names it, BASE is another Debian than that of the Containerfile.
IMAGE ?= localhost/kata-deploy:$(VERSION)
deploy-image: guest
	$(SUDO) env KATA_GUEST_DIR="$${KATA_GUEST_DIR:-/var/lib/kata/guest}" deploy/installer/image $(BIN) $(IMAGE) $(BASE)

clean:
	rm -rf $(OUT)
