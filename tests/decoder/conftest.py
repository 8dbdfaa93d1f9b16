"""Compiling is what these tests cost; without LLVM's optimisations it is half."""

import os

os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_cpu_multi_thread_eigen=false",
    ]
)
