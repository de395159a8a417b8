# Writ. `make help` lists what there is to ask for; `make` alone builds.
#
# Every target works on a fresh Debian machine that has Go and this tree. What
# else a target needs it installs itself (.ci/setup.sh says what and why).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

PROGRAMS := policy sync coordinator agent relay

# What to check: everything, or a part of the tree while working on it, as in
# `make test PKGS=./coordinator/key/...`. A part leaves out the checks that only
# mean something for the whole: modules, stubs, vulnerabilities, binaries,
# examples.
PKGS ?= ./...

PREFIX    ?= /usr/local
DESTDIR   ?=
FUZZTIME  ?= 60s
BENCH     ?= .
BENCHTIME ?= 1s
COUNT     ?= 1
SOAKCOUNT ?= 20

# Each main package has `var version = "devel"`, which this replaces.
VERSION ?= $(shell git describe --tags --always --dirty --abbrev=12 2>/dev/null || echo devel)

# No cgo: the programs run on any Linux of their architecture, and the same
# sources give the same bytes. -trimpath for the same reason, and everywhere, so
# that checks, tests and binaries share one build cache. The race detector needs
# cgo and turns it on for itself.
export CGO_ENABLED := 0
export GOFLAGS := $(strip $(filter-out -trimpath,$(shell go env GOFLAGS)) -trimpath)

BUILD = go build -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)'

.PHONY: build
build: ## build bin/{policy,sync,coordinator,agent,relay}
	@.ci/setup.sh build
	$(BUILD) -o bin/ $(addprefix ./,$(PROGRAMS))

.PHONY: demo
demo: build ## watch a pull request change who reaches the accounting servers
	$(BUILD) -o bin/demo ./examples/demo
	bin/demo -bin bin

.PHONY: lab
lab: build ## the programs behind real NATs, in network namespaces; needs root (LAB=regexp)
	@.ci/setup.sh test
	@.ci/lab.sh show

.PHONY: test
test: ## every check and test; does its own set-up (PKGS=./policy/... for a part)
	@.ci/test.sh $(PKGS)

.PHONY: quick
quick: ## formatting, vet and the short tests: under a minute once built
	@.ci/quick.sh $(PKGS)

.PHONY: bench
bench: ## benchmarks (PKGS, BENCH=regexp, BENCHTIME=1s, COUNT=1)
	@packages=$$(.ci/having.sh '^func Benchmark[A-Z]' $(PKGS)); \
	if [ -z "$$packages" ]; then echo "bench: no benchmark in $(PKGS)" >&2; exit 2; fi; \
	go test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -count $(COUNT) -benchmem $$packages

.PHONY: bench-lab
bench-lab: build ## measure times and throughput in the laboratory; needs root (LAB=regexp, ROUNDS=10)
	@.ci/setup.sh test
	@ROUNDS='$(ROUNDS)' FIGURES='$(FIGURES)' EXPLAIN='$(EXPLAIN)' .ci/benchlab.sh

.PHONY: fuzz
fuzz: ## run every fuzz target in turn (PKGS, FUZZTIME=60s each)
	@.ci/fuzz.sh $(FUZZTIME) $(PKGS)

.PHONY: soak
soak: ## the long version: races and properties many times over, then fuzz (SOAKCOUNT=20)
	@.ci/soak.sh $(SOAKCOUNT) $(FUZZTIME) $(PKGS)

.PHONY: examples
examples: build ## test every policy repository under examples/
	@.ci/examples.sh

.PHONY: install
install: build ## install under DESTDIR and PREFIX; only policy keeps its short name
	install -d '$(DESTDIR)$(PREFIX)/bin'
	install -m 0755 bin/policy '$(DESTDIR)$(PREFIX)/bin/policy'
	for p in $(filter-out policy,$(PROGRAMS)); do \
		install -m 0755 "bin/$$p" "$(DESTDIR)$(PREFIX)/bin/writ-$$p"; \
	done
	install -d '$(DESTDIR)$(PREFIX)/lib/systemd/system' '$(DESTDIR)$(PREFIX)/lib/sysusers.d'
	for u in agent/systemd/*.service; do \
		sed 's|/usr/local/bin/|$(PREFIX)/bin/|g' "$$u" | install -m 0644 /dev/stdin "$(DESTDIR)$(PREFIX)/lib/systemd/system/$${u##*/}"; \
	done
	install -m 0644 agent/systemd/writ.sysusers '$(DESTDIR)$(PREFIX)/lib/sysusers.d/writ.conf'

.PHONY: generate
generate: ## write the stubs of every .proto anew
	@.ci/setup.sh test
	@.ci/generate.sh

.PHONY: fmt
fmt: ## gofmt the tree
	gofmt -w $$(.ci/gofiles.sh)

.PHONY: clean
clean: ## remove what the other targets made
	rm -rf bin .cache

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
