# smshooks: `make` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
IMAGE   ?= smshooks:$(VERSION)
# -buildvcs=false: the version comes from VERSION, and a clone owned by another user must still build.
# timetzdata: the image is FROM scratch and has no time zones of its own.
BUILD   := -trimpath -buildvcs=false -tags timetzdata -ldflags "-s -w -X main.version=$(VERSION)"
LINT    := go tool -modfile=$(CURDIR)/tools/go.mod golangci-lint
CA      ?= /etc/ssl/certs/ca-certificates.crt
# The service, and the modules with dependencies of their own. Each has a go.mod.
MODULES  := . tools/bench tools/bench/benthos tools/dashboards tools/deploy test/real
# runs a command in every module
each      = for module in $(MODULES); do (cd $$module && $(1)); done
FUZZTIME ?= 10s
BENCHSTAT := go tool -modfile=tools/go.mod benchstat
# the micro-benchmarks with a baseline: decode, encode, offsets, lanes, lookup, delivery log
HOTBENCH := go test -run '^$$$$' -bench . -benchmem -count 6 -benchtime 200ms ./pkg/webhook ./pkg/offsets ./pkg/lanes ./internal/settings ./internal/deliverylog
VULN    := go tool -modfile=$(CURDIR)/tools/go.mod govulncheck
# use the Go of go.mod's toolchain line if the installed one is older and that one is available
export GOTOOLCHAIN := $(shell GOTOOLCHAIN=auto go version >/dev/null 2>&1 && echo auto || echo local)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build the static binary bin/smshooks
	CGO_ENABLED=0 go build $(BUILD) -o bin/smshooks ./cmd/smshooks

.PHONY: demo
demo: ## run the whole service in one process; needs neither Kafka nor Redis
	go run ./cmd/smshooks demo

.PHONY: test
test: test-setup test-fast test-real ## run all three floors: pure, virtual time, real Kafka and Redis (does its own set-up)

.PHONY: test-setup
test-setup: # installs and builds what all floors need, the C compiler of the race detector included
	@test/stack/up.sh >/dev/null

.PHONY: test-fast
# tools/bench/benthos goes without the race detector: its one test is not worth compiling a large engine again.
test-fast: ## run the floors that need no Docker, with the race detector
	go test -race -timeout 10m ./...
	go -C tools/bench test -race -timeout 10m ./...
	go -C tools/bench/benthos test -timeout 10m ./...
	go -C tools/dashboards test -race -timeout 10m ./...

# Cases of the fault suite that run with a program that has the race detector; make faults runs them without.
RACES := ^Test(Storm|Flush|Sigterm|LinkKafka)$$

# The tests wait more than they work: two packages at a time, and four tests of each, on two cores.
REAL := SMSHOOKS_TEST_REAL=1 go -C test/real test -p 2 -parallel 4 -count=1 -timeout 25m
.PHONY: test-real
test-real: ## run the real floor; starts or builds what it needs, and never passes by skipping
	@stack=$$(test/stack/up.sh) && eval "$$stack" && \
	$(REAL) -skip '$(RACES)' ./... && \
	SMSHOOKS_TEST_RACE=1 $(REAL) -run '$(RACES)' ./faults

FAULTS ?= .
.PHONY: faults
faults: ## run the fault suite with its full loads, some 3 1/2 hours (FAULTS=TestKill: a part of it), and write docs/reliability.md
	@stack=$$(test/stack/up.sh) && eval "$$stack" && \
	if [ '$(FAULTS)' = . ]; then rm -f docs/reliability.jsonl; fi && \
	SMSHOOKS_TEST_REAL=1 SMSHOOKS_FAULTS=long \
	SMSHOOKS_FAULTS_RESULTS="$(CURDIR)/docs/reliability.jsonl" SMSHOOKS_FAULTS_REPORT="$(CURDIR)/docs/reliability.md" \
	go -C test/real test -count=1 -timeout 5h -run '$(FAULTS)' ./faults

.PHONY: check
check: vet build arch compose-check spec-lint docs-check dashboards-check rules-check manifests-check unit-check lint ## run all checks that do not run the service

.PHONY: lint
lint: ## run golangci-lint, pinned in tools/go.mod (the first run compiles it: some minutes)
	@$(call each,$(LINT) run ./...)

.PHONY: vet
vet: ## run go vet in every module
	@$(call each,go vet ./...)

.PHONY: arch
arch: ## check that imports go down only and each driver stays in its packages
	go test -count=1 ./test/arch

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (10s), two at a time
	@grep -rE '^func Fuzz' --include='*_test.go' . | sed -E 's|^(.*)/[^/]+:func (Fuzz[A-Za-z0-9]+).*|\1 \2|' | \
	FUZZTIME=$(FUZZTIME) xargs -P 2 -L 1 tools/fuzz.sh

.PHONY: vuln
vuln: ## look for known vulnerabilities in the code that is called; SMSHOOKS_VULNDB names another database (https://vuln.go.dev)
	@db=$${SMSHOOKS_VULNDB:-}; \
	[ -n "$$db" ] || db=file://$$(go mod download -json golang.org/x/vulndb@latest | sed -n 's/.*"Dir": "\(.*\)",*$$/\1/p')/data/osv; \
	$(call each,$(VULN) -db "$$db" ./...)

BENCH_FLAGS ?= --report docs
.PHONY: bench
bench: build ## measure the whole service, and write docs/performance.md (over an hour; BENCH_FLAGS=--quick: half a minute, writes nothing)
	@go -C tools/bench build -buildvcs=false -o ../../bin/bench . && \
	stack=$$(test/stack/up.sh) && eval "$$stack" && bin/bench --binary bin/smshooks $(BENCH_FLAGS)

.PHONY: bench-micro
bench-micro: ## run the micro-benchmarks
	@$(call each,go test -run '^$$' -bench . -benchmem ./...)

.PHONY: bench-diff
bench-diff: ## compare the hot path's micro-benchmarks with the baseline in test/bench
	@now=$$(mktemp) && trap 'rm -f "$$now"' EXIT && $(HOTBENCH) >"$$now" && $(BENCHSTAT) test/bench/baseline.txt "$$now"

.PHONY: bench-baseline
bench-baseline: ## store the current results of the micro-benchmarks as the baseline
	$(HOTBENCH) >test/bench/baseline.txt.new && mv test/bench/baseline.txt.new test/bench/baseline.txt

.PHONY: man
man: build ## write the manual pages to dist/man
	mkdir -p dist/man && bin/smshooks man dist/man

.PHONY: image
image: build ## build the container image (FROM scratch) around bin/smshooks
	cp -L "$(CA)" bin/ca-certificates.crt
	go -C tools/deploy run ./licences -dir ../.. ./cmd/smshooks >bin/THIRD_PARTY_LICENSES
	docker build -t "$(IMAGE)" -t smshooks:latest .

.PHONY: compose-check
compose-check: ## check that docker-compose.yml is valid
	@if docker compose version >/dev/null 2>&1; then docker compose -f docker-compose.yml config -q; \
	elif command -v docker-compose >/dev/null; then docker-compose -f docker-compose.yml config -q; \
	else echo "compose-check: neither 'docker compose' nor docker-compose is installed" >&2; exit 1; fi

.PHONY: spec-lint
spec-lint: ## lint the OpenAPI and the AsyncAPI document
	npx --yes @stoplight/spectral-cli@6.16.3 lint --fail-severity=warn --ruleset tools/spectral.yaml docs/asyncapi.yaml internal/api/openapi.yaml

.PHONY: dashboards
dashboards: ## generate the Grafana dashboards and the alert rules from deploy/grafana/values.yaml
	go -C tools/dashboards run .

.PHONY: dashboards-check
dashboards-check: ## check that the generated dashboards and rules are up to date, and lint them
	go -C tools/dashboards run . -check

.PHONY: dashboards-images
dashboards-images: ## draw every panel from a real Prometheus' answers into docs/images (echarts comes from npm)
	@charts=$$(mktemp -d) && trap 'rm -rf "$$charts"' EXIT && \
	npm install --silent --no-save --no-audit --no-fund --prefix "$$charts" echarts@6.1.0 && \
	stack=$$(test/stack/up.sh) && eval "$$stack" && \
	SMSHOOKS_TEST_REAL=1 SMSHOOKS_TEST_PICTURES="$(CURDIR)/docs/images" SMSHOOKS_TEST_ECHARTS="$$charts/node_modules/echarts/dist/echarts.min.js" \
	go -C test/real test -count=1 -run 'TestDashboards$$' .

.PHONY: page-images
page-images: ## take the screenshots of the account page in docs/images, with Chromium
	@stack=$$(test/stack/up.sh) && eval "$$stack" && \
	SMSHOOKS_TEST_REAL=1 SMSHOOKS_TEST_SCREENSHOTS=docs/images go -C test/real test -count=1 -run 'TestAccountPage$$' .

.PHONY: rules-check
rules-check: ## check Prometheus' settings and rules, and test every alert firing and quiet (needs promtool)
	promtool check config deploy/prometheus/prometheus.yml
	promtool test rules deploy/prometheus/rules/smshooks_test.yml

.PHONY: manifests-check
manifests-check: build ## check the Kubernetes manifests and the Helm chart against their schemas, each other and the program
	tools/deploy/manifests.sh

.PHONY: unit-check
unit-check: build ## check the systemd unit and its hardening (needs systemd-analyze)
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	sed "s|/usr/local/bin/smshooks|$(CURDIR)/bin/smshooks|" deploy/systemd/smshooks.service >"$$dir/smshooks.service" && \
	systemd-analyze verify "$$dir/smshooks.service" && \
	systemd-analyze security --offline=true --threshold=20 "$$dir/smshooks.service" | tail -1

# mkdocs lives in a virtual environment that follows docs/requirements.txt.
dist/mkdocs/.complete: docs/requirements.txt
	python3 -m venv --clear dist/mkdocs
	dist/mkdocs/bin/pip install -q --disable-pip-version-check -r docs/requirements.txt
	touch $@

.PHONY: site
site: dist/mkdocs/.complete ## build the documentation as a site with search, dist/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 dist/mkdocs/bin/mkdocs build
	@echo "dist/site/index.html"

.PHONY: docs-check
docs-check: site ## compare the documentation with the program, and check its links
	go test -count=1 ./test/docs

.PHONY: compose-test
compose-test: ## start docker-compose.yml and check that an event from Kafka's console producer is delivered (part of test-real)
	@stack=$$(test/stack/up.sh) && eval "$$stack" && \
	SMSHOOKS_TEST_REAL=1 go -C test/real test -p 1 -count=1 -timeout 10m -run TestCompose .

.PHONY: release
release: ## build dist/release: static binaries for linux/amd64 and arm64, SBOMs, deb and rpm, licences, SHA256SUMS
	tools/deploy/release.sh "$(VERSION)" dist/release

.PHONY: packages
packages: ## build the deb and the rpm of the binaries in dist/release again (part of release)
	tools/deploy/packages.sh "$(VERSION)" dist/release

.PHONY: release-check
release-check: ## build the release twice, in two places, and compare the bytes
	tools/deploy/release-check.sh

.PHONY: clean
clean: ## remove build outputs
	rm -rf bin dist coverage.out
