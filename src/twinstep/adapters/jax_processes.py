"""How ranks become the processes of one JAX, and what keeps a restart from compiling.

    twinstep.adapters.jax.initialize()     where jax.distributed.initialize() would be

The launcher has said which rank this is and where rank 0 listens; each round of a job
has another port, so that ranks of a dead group never meet those of the next. On CPUs
collectives go through gloo. A rank that ends with an error ends at once: JAX would have
it wait for the others, which wait for it in a collective.

XLA's compiled programs are kept in the job's folder on this machine, and a restarted
rank reads them. JAX lets process 0 alone write, and each process needs its own: a rank
that finds its program would wait for others that compile theirs, and gloo gives up
after 30 s. So here every process writes, to a folder that no other job shares. Whoever
sets jax_compilation_cache_dir, or JAX_COMPILATION_CACHE_DIR, has JAX's own ways.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from twinstep.adapters.jax_leaves import api
from twinstep.environment import compiled_folder, group_place
from twinstep.errors import OrderError

WAIT_S_MAX = 300
"""All ranks have come to rank 0 within this time, or each says who is missing."""
OTHERS_FIRST_S = 2.0
"""An error of XLA's may come from another rank's death: that one shall be seen to end
first, and the agent then ends this one."""
WRITES, PUTS = "_cache_write", "put_executable_and_time"
_joined: list[bool] = []


def initialize(*, coordinator: str = "", compiled: Path | None = None) -> None:
    """This rank is a process of one JAX of all ranks afterwards, if there are several.

    Call it before anything of JAX that needs devices. A script that was started by
    hand, or as a single rank, goes on alone.

    Args:
      coordinator: HOST:PORT at which rank 0 shall listen; left out, it is MASTER_ADDR
        and MASTER_PORT of the environment, as `twinstep run` sets them. Under torchrun
        that port is torchrun's own: name another.
      compiled: the folder of compiled programs, where it shall outlive the job; it may
        be there already. Left out, it is in the job's folder, and goes with it.

    Raises: OrderError when it comes too late; RuntimeError of JAX's when not all ranks
        have come in time."""
    if _joined:
        raise OrderError("initialize() was called already; call it once, at the start")
    _joined.append(True)
    keep_compiled(compiled)
    place = group_place()
    if place is None or place.world_size == 1:
        return
    if api.config.jax_cpu_collectives_implementation is None:
        api.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        api.distributed.initialize(
            coordinator_address=coordinator or place.coordinator,
            num_processes=place.world_size,
            process_id=place.rank,
            local_device_ids=[place.local_rank] if place.has_neighbours else None,
            cluster_detection_method="deactivate",
            initialization_timeout=WAIT_S_MAX,
        )
    except RuntimeError as error:
        if "before any JAX" in str(error):
            raise OrderError(
                f"twinstep.adapters.jax.initialize() came too late: {error}. Call it "
                "before anything else of JAX"
            ) from error
        raise
    atexit.register(_leave_at_once_after_an_error)
    if api.default_backend() == "cpu":
        _connect()


def keep_compiled(folder: Path | None = None) -> None:
    """Programs that XLA compiles from now on are kept for the ranks of later rounds,
    unless the user has a cache already, or no agent started this rank and no `folder`
    is named."""
    folder = folder or compiled_folder()
    if folder is None or api.config.jax_compilation_cache_dir:
        return
    from jax.experimental.compilation_cache import compilation_cache

    api.config.update("jax_compilation_cache_dir", str(folder))
    if api.config.jax_persistent_cache_min_compile_time_secs == 1.0:
        api.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()  # what was compiled before had asked for none
    _every_process_writes()


def _every_process_writes() -> None:
    """Process 0 is not the only one to write what it compiles. JAX has no setting for
    it; a version without the function that is replaced here compiles more often."""
    from jax._src import (  # pyright: ignore[reportPrivateUsage]
        compilation_cache,
        compiler,
    )

    inside = vars(compiler)
    if WRITES not in inside or not hasattr(compilation_cache, PUTS):
        return
    put: Any = getattr(compilation_cache, PUTS)

    def write(
        key: str, seconds: float, name: str, backend: Any, made: Any, callbacks: Any
    ) -> None:
        if not callbacks:
            try:
                put(key, name, made, backend, int(seconds))
            except Exception as error:  # a full disk must not end training
                logging.getLogger(__name__).warning("%s is not kept: %s", name, error)

    setattr(compiler, WRITES, write)


def _connect() -> None:
    """All processes are connected by gloo, which waits for late ones for 30 s only:
    here they have all just come."""
    from jax.experimental import multihost_utils

    wait: Any = multihost_utils.sync_global_devices
    wait("twinstep")


def _leave_at_once_after_an_error() -> None:
    if not hasattr(sys, "last_value"):
        return
    if isinstance(sys.last_value, api.errors.JaxRuntimeError):
        time.sleep(OTHERS_FIRST_S)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)
