"""What a training step of large presets becomes on 4,096 devices that are not here.

    python -m benchmarks.decoder_lowering [--compiler cpu tpu] [--write] [--json FILE]

The whole step (forward, backward, AdamW) over pod 4 x data 64 x model 16 is lowered,
partitioned for 4,096 devices and compiled; nothing is allocated and nothing runs.

    cpu   XLA's partitioner and its CPU compiler. The 4,096 devices are virtual, 2,048
          in each of two processes, since a process has no more. What is counted is true
          of the partitioner (GSPMD behind Shardy); the CPU has no reduce-scatter, which
          shows as an all-reduce, and no overlap of collectives with computation
    tpu   the real TPU compiler for four slices of TPU v4 of 1,024 chips (8 x 8 x 16),
          the collectives between slices by MegaScale XLA. It needs no TPU, but the
          compiler: pip install libtpu (jax says which version), 700 MB

Collectives are counted in the compiled module (decoder/collectives.py): instructions,
runs a step, bytes of results on one device. Not known from this: seconds; and on a TPU
the time that is hidden behind computation. --write records what
tests/decoder/golden/lowered_4096.json says, which is too slow for the tests themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

GOLDEN = (
    Path(__file__).parent.parent / "tests" / "decoder" / "golden" / "lowered_4096.json"
)
MESH = {"pod": 4, "data": 64, "model": 16}
PRESETS = ("nano_2", "ultra")
COMPILERS = ("cpu", "tpu")
TOPOLOGY = {
    "topology_name": "v4:8x8x16",
    "num_slices": 4,
    "chip_config_name": "megacore",
    "chips_per_host_bounds": (2, 2, 1),
}
ROWS, TOKENS, SOFT = 256, 32_768, 1024
CPU_FLAGS = (
    "--xla_force_host_platform_device_count=2048 --xla_cpu_multi_thread_eigen=false "
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
RUN_S_MAX = 3600.0


def lower(name: str, mesh: Any, *, platforms: tuple[str, ...] | None = None) -> Any:
    """Returns the lowered step of a preset for a mesh, which may be abstract (then with
    `platforms`)."""
    import jax

    from twinstep.decoder import shard
    from twinstep.decoder.config import preset
    from twinstep.decoder.model.decoder import decoder_spec
    from twinstep.decoder.model.segments import BatchShape, empty
    from twinstep.decoder.spec import abstract
    from twinstep.decoder.train.settings import TrainConfig
    from twinstep.decoder.train.step import Shardings, make_step, optimizer

    config = preset(name)
    shape = BatchShape(rows=ROWS, tokens=TOKENS, images=SOFT, audio=SOFT)
    train = TrainConfig(shape=shape)
    spec = decoder_spec(config)
    params = abstract(spec)
    state = {
        "params": params,
        "optimizer": jax.eval_shape(optimizer(train, spec).init, params),
        "step": jax.ShapeDtypeStruct((), "int32"),
    }
    # Shapes only: a batch of zeros in memory would be of a pod's size.
    batch = jax.eval_shape(
        lambda: jax.tree.map(jax.numpy.asarray, empty(shape, config.tower))
    )
    laid = shard.state_shardings(state, shard.shardings(spec, mesh), mesh)
    step = make_step(
        config,
        train,
        shardings=Shardings(
            state=laid,
            batch=shard.batch_shardings(mesh, ROWS, TOKENS),
            metrics=shard.whole(mesh),
        ),
        donate=True,
        backend="ring",
    )
    with shard.on(mesh):
        traced = step.trace(state, batch)
        return (
            traced.lower(lowering_platforms=platforms) if platforms else traced.lower()
        )


def compile_here(name: str, mesh: Any) -> dict[str, Any]:
    """Returns what the compiled step of one preset has, in this process."""
    from twinstep.decoder.collectives import collectives
    from twinstep.decoder.config import preset
    from twinstep.decoder.model.decoder import decoder_spec
    from twinstep.decoder.spec import count

    began = time.perf_counter()
    lowered = lower(name, mesh)
    lowered_s = time.perf_counter() - began
    compiled = lowered.compile()
    compiled_s = time.perf_counter() - began - lowered_s
    memory = compiled.memory_analysis()
    traffic = collectives(compiled.as_text(), mesh.shape)
    return {
        "preset": name,
        "parameters": count(decoder_spec(preset(name))),
        "devices": mesh.size,
        "state_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "collectives": {key: asdict(one) for key, one in traffic.items()},
        "lowered_s": lowered_s,
        "compiled_s": compiled_s,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def on_virtual_cpus(name: str, number: int, port: int) -> dict[str, Any]:
    """One of two processes, both of which compile the same."""
    import jax

    from twinstep.decoder import shard

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, number)
    return compile_here(name, shard.make_mesh(**MESH))


def on_slices(name: str) -> dict[str, Any]:
    """With the TPU compiler, for slices that are not here."""
    from jax.experimental import mesh_utils, topologies
    from jax.sharding import AxisType, Mesh

    from twinstep.decoder.shard import AXES

    described = topologies.get_topology_desc(platform="tpu", **TOPOLOGY)
    slices, inside = (MESH["pod"], 1, 1, 1), (1, MESH["data"], MESH["model"], 1)
    devices = mesh_utils.create_hybrid_device_mesh(inside, slices, described.devices)
    return compile_here(name, Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 4))


def measure(name: str, compiler: str) -> dict[str, Any]:
    """Returns what one preset becomes, compiled in processes of its own."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    settings = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": CPU_FLAGS}
    if compiler == "tpu":
        # Without these the compiler asks a cloud's metadata which TPU it runs on.
        settings = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v4-8"}
        settings |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
        settings |= {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks.decoder_lowering", "--one", name]
    processes = [
        subprocess.Popen(
            [*command, "--compiler", compiler, "--place", str(number), str(port)],
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2 if compiler == "cpu" else 1)
    ]
    try:
        said = [process.communicate(timeout=RUN_S_MAX) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, said, strict=True):
        if process.returncode:
            raise RuntimeError(f"{name} with {compiler}: {errors[-3000:]}")
    return json.loads(said[0][0].splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--compiler", nargs="+", choices=COMPILERS, default=["cpu"])
    parser.add_argument("--preset", nargs="+", default=PRESETS)
    parser.add_argument("--write", action="store_true", help=f"record {GOLDEN.name}")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--place", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        place = options.place
        cpu = options.compiler == ["cpu"]
        one = on_virtual_cpus(options.one, *place) if cpu else on_slices(options.one)
        print(json.dumps(one), flush=True)
        return
    found: dict[str, dict[str, Any]] = {}
    for compiler in options.compiler:
        for name in options.preset:
            one = measure(name, compiler)
            found.setdefault(compiler, {})[name] = one
            Console().print(table(one, compiler))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.write:
        record(found)


def table(one: dict[str, Any], compiler: str) -> Table:
    title = (
        f"{one['preset']}, {one['parameters'] / 1e9:.2f}e9 parameters on "
        f"{one['devices']:,} devices ({compiler}): state of "
        f"{one['state_bytes'] / 1e9:.2f} GB and {one['temporary_bytes'] / 1e9:.2f} GB "
        f"beside on each, compiled in {one['compiled_s']:.0f} s"
    )
    drawn = Table(
        "collective", "instructions", "runs a step", "GB a device", title=title
    )
    for key, traffic in one["collectives"].items():
        size = f"{traffic['bytes'] / 1e9:.3f}"
        drawn.add_row(key, str(traffic["instructions"]), str(traffic["runs"]), size)
    return drawn


def record(found: dict[str, dict[str, Any]]) -> None:
    """The golden file has of these compilers what was found, and of others what it
    had; nothing that differs from run to run."""
    import jax

    noisy = {"lowered_s", "compiled_s", "peak_bytes"}
    recorded = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    recorded |= {"jax": jax.__version__, "mesh": MESH, "rows": ROWS, "tokens": TOKENS}
    for compiler, presets in found.items():
        kept = recorded.setdefault(compiler, {})
        for name, one in presets.items():
            kept[name] = {key: one[key] for key in one if key not in noisy}
    GOLDEN.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
