# Every target makes .venv and installs what it needs; a stamp file remembers it.

PYTHON ?= python3
TORCH := torch==2.13.0
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: venv demo test test-kubernetes check bench clean

venv: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/twinstep demo

test: check .venv/.etcd .venv/.hosts
	$(BIN)/python -m pytest

# Long, and only on request: a real control plane, built once from Debian's sources (an
# hour or less; kept in ~/.cache/twinstep), in a network namespace of its own.
KUBERNETES ?= $(HOME)/.cache/twinstep/kubernetes
test-kubernetes: $(INSTALLED) .venv/.etcd .venv/.hosts
	tests/kubernetes/control_plane.sh $(KUBERNETES)
	KUBERNETES=$(KUBERNETES)/bin unshare --net sh -c 'ip link set lo up && \
	ip route add local 10.78.0.0/16 dev lo && \
	exec $(BIN)/python -m pytest -s tests/kubernetes/on_a_cluster.py'

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv .venv

# torch comes first and by exact version, so that nothing which depends on it
# picks another one.
.venv/.torch: Makefile | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(TORCH)
	touch $@

$(INSTALLED): pyproject.toml .venv/.torch
	$(BIN)/python -m pip install --quiet $(TORCH) -e '.[dev,etcd,kubernetes,ray,tls,torch]'
	touch $@

# The tests of etcd want the real one and are skipped without: installed once where
# that is possible (RUNLEVEL=1 keeps Debian from starting it), and no error if not.
.venv/.etcd: | $(BIN)/python
	@command -v etcd >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null \
	|| { timeout 120 apt-get update -q && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
	timeout 120 apt-get install -y -q etcd-server etcd-client; } >/dev/null 2>&1 \
	|| echo "etcd could not be installed; its tests will be skipped"
	@touch $@

# So do the tests on hosts (network namespaces) want these.
.venv/.hosts: | $(BIN)/python
	@{ command -v ip && command -v nft && ls /usr/lib/*/faketime; } >/dev/null 2>&1 \
	|| [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null \
	|| { timeout 120 apt-get update -q && DEBIAN_FRONTEND=noninteractive \
	timeout 120 apt-get install -y -q iproute2 nftables libfaketime; } >/dev/null 2>&1 \
	|| echo "iproute2, nftables, libfaketime could not be installed; tests on hosts will be skipped"
	@touch $@
