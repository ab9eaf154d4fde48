# Asgard's commands. `make` alone lists them.

CARGO  ?= cargo
PREFIX ?= /usr/local
# Where installed files are staged; packagers set it.
DESTDIR ?=

# The rings are proved under loom, which replaces their atomics: a build of its own.
LOOM = RUSTFLAGS="--cfg loom" $(CARGO) test --release --target-dir target/loom -p asgard-asg --test loom_ring

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench man install clean

help: ## list these commands
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what this machine lacks (Debian 12 or 13, as root or with sudo)
	@tests/setup-debian.sh

demo: setup ## render a scene through the ring into out/asgard.png
	$(CARGO) build --release
	$(CARGO) run --release -q --bin demo

test: setup ## every test: unit, end to end, documentation, loom
	$(CARGO) build --workspace
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		set -x; $(CARGO) nextest run --workspace --no-fail-fast; \
	else \
		set -x; $(CARGO) test --workspace --no-fail-fast --lib --bins --tests; \
	fi
	$(CARGO) test --workspace --doc -q
	$(LOOM)

lint: ## formatting, clippy and documentation, warnings as errors
	$(CARGO) fmt --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --workspace --no-deps

bench: setup ## the speed of the ring and of common calls, beside native
	$(CARGO) build --release
	$(CARGO) run --release -q --bin bench -- --compare

man: ## write the manual page and the shell completions into out/
	$(CARGO) build --release
	mkdir -p out/man out/completions
	target/release/asgard man > out/man/asgard.1
	target/release/asgard completions bash > out/completions/asgard
	target/release/asgard completions zsh > out/completions/_asgard
	target/release/asgard completions fish > out/completions/asgard.fish

install: man ## install under PREFIX (default /usr/local)
	install -Dm755 -t $(DESTDIR)$(PREFIX)/bin target/release/asgard
	install -Dm755 -t $(DESTDIR)$(PREFIX)/lib/asgard target/release/libasgard_preload.so target/release/libvulkan_asgard.so
	install -d $(DESTDIR)$(PREFIX)/libexec $(DESTDIR)$(PREFIX)/share/qemu/vhost-user
	ln -sf ../bin/asgard $(DESTDIR)$(PREFIX)/libexec/vhost-user-gpu-asgard
	sed 's|@PREFIX@|$(PREFIX)|' host-device/vhost-user.json > $(DESTDIR)$(PREFIX)/share/qemu/vhost-user/50-asgard.json
	install -Dm644 -t $(DESTDIR)$(PREFIX)/share/man/man1 out/man/asgard.1
	install -Dm644 -t $(DESTDIR)$(PREFIX)/share/bash-completion/completions out/completions/asgard
	install -Dm644 -t $(DESTDIR)$(PREFIX)/share/zsh/site-functions out/completions/_asgard
	install -Dm644 -t $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d out/completions/asgard.fish
	install -Dm644 -t $(DESTDIR)$(PREFIX)/share/doc/asgard README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE

clean: ## remove everything that was built
	$(CARGO) clean
	rm -rf out
