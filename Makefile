# Everything a person or CI does here. `make help` lists it.
.NOTPARALLEL:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := $(shell scripts/venv-path)
PYTHON := $(VENV)/bin/python
# The only interpreter here is the environment's, whatever the caller's shell has set up.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
export PATH := $(VENV)/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

CODE := $(wildcard src lab bench tests scripts/*.py)
QUICK := not root and not guests and not long
# A part of what needs no root runs beside the rest. How it ended is told, and counts, at the end of the other's summary.
HALF := tests/property tests/architecture
REST := tests/unit/bench tests/fuzz
HSEM := tests/unit/host/hsem
define meanwhile
mkdir -p build
rm -f build/half.log
{ code=0; pytest -q -p no:cacheprovider -m "$(QUICK)" $(HALF) $(1) 2>&1 || code=$$?; echo "exit $$code"; } >build/half.log & half=$$!
trap 'kill $$half 2>/dev/null || true' EXIT
status=0
endef
BENCHES := $(sort $(notdir $(basename $(filter-out bench/_%,$(wildcard bench/*.py)))))

.PHONY: help setup lab editable wheel format lint check test verify scoreboard demo bench bench-agent bench-dataplane agent reference lock clean root

help: ## list what can be done
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: ## install what is missing: system packages, environment, data plane, the package
	@scripts/setup

lab: root setup ## install what the lab needs besides: libvirt, QEMU, attack tools
	@scripts/install-lab-packages

editable: ## install the package so that edits in src count at once (for development)
	@scripts/setup --editable

wheel: ## install the package as users get it (undoes editable)
	@scripts/setup --wheel

format: setup ## format the code
	@ruff format $(CODE)
	ruff check --fix $(CODE)

lint: setup ## format, lint, types and import contracts, checked and not changed
	@ruff format --check --quiet --output-format concise $(CODE) || { echo "run 'make format'"; exit 1; }
	ruff check $(CODE)
	mypy
	lint-imports --no-logo

check: lint ## the fast part: lint, unit, property and architecture tests; < 2 minutes, no root
	@$(call meanwhile,$(REST))
	pytest -q -m "$(QUICK)" --with build/half.log --ignore tests/unit/bench tests/unit || status=$$?
	exit $$status

test: lab lint ## everything in ≤ 30 minutes, real guests included; needs root
	@# Half an hour of tests is not begun when one of them imports what is gone.
	names=$$(pytest -qq --collect-only tests) || { tail -n 40 <<<"$$names"; exit 1; }
	# What measures rates or boots guests waits until this has ended (tests/conftest.py): the machine is its own then.
	$(call meanwhile,$(HSEM))
	pytest --complete --durations 20 --durations-min 5 -m "not long" --with build/half.log --ignore $(HSEM) \
		tests/unit tests/fuzz tests/integration tests/system || status=$$?
	exit $$status

verify: lab ## the full matrix, resumable; SLICE=name runs one slice, else as many as 85 minutes hold
	@$(PYTHON) scripts/verify.py $(SLICE)

scoreboard: lab ## ordinary days, captures and real guests in one report; PART=quiet|captures|guests runs one
	@$(PYTHON) scripts/scoreboard.py $(PART)

demo: lab ## an attack on real guests, found and contained, told live
	@$(PYTHON) -m lab demo

bench: lab ## every benchmark in bench/; ONLY=name runs one
	@for name in $(or $(ONLY),$(BENCHES)); do
		echo "== bench/$$name.py"
		$(PYTHON) -m "bench.$$name"
	done

bench-agent: root setup ## what the agent costs a guest, beside Debian's other agents
	@$(PYTHON) -m bench.agent

bench-dataplane: lab ## what protection costs between two VMs, beside other ways; LINK=veth|tap|guests and MINUTES=N bound it
	@$(PYTHON) -m bench.dataplane $(if $(LINK),--link $(LINK)) $(if $(MINUTES),--minutes $(MINUTES))

agent: ## pack the agent for guests, with what starts it, into build/agent
	@scripts/build-agent build/agent

reference: setup ## write docs/commands.md and docs/levels.md anew from the program's help and tables
	@$(PYTHON) scripts/command_reference.py
	$(PYTHON) scripts/levels_reference.py

lock: setup ## pin the dependencies anew; UPGRADE=1 takes newer versions
	@scripts/lock "$(VENV)" $(if $(UPGRADE),--upgrade)

clean: ## remove what was built and cached here (not the environment: rm -r "$$(scripts/venv-path)")
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src lab bench tests -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f src/hypervigil/hypervisor/bpf/*.o src/hypervigil/guest/hypervigil-agent

root:
	@[ "$$(id -u)" = 0 ] || { echo "this boots real guests and changes the host's network: run it as root" >&2; exit 1; }
