"""Programs that are started as several processes of one run, on simulated CPU devices."""

import importlib.metadata
import os
import socket
import subprocess
import sys
from pathlib import Path

TASK = Path(__file__).parent / "tiny_task.py"

# Programs here run for milliseconds and compile for seconds, so what makes them fast is left out: LLVM's optimiser,
# modules that compile at the same time and, in the last jaxlib that has a choice there, kernels of several operations.
# Compiling takes less than half of what it takes where only the first of these is left out.
COMPILES_FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
COMPILES_FAST += " --xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # a flag that is not known ends the process
    COMPILES_FAST += " --xla_cpu_use_fusion_emitters=false"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def simulated(devices):
    """Variables of a process that simulates so many devices, and compiles fast."""
    flags = f"--xla_force_host_platform_device_count={devices} {COMPILES_FAST}"
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def start(command, count, *, devices=1, cache=None):
    """Start ``count`` processes of a command, each with so many devices."""
    port, begun = free_port(), []
    for index in range(count):
        environment = {
            **os.environ,
            **simulated(devices),
            "RLHF_COORDINATOR": f"127.0.0.1:{port}",
            "RLHF_PROCESS_COUNT": str(count),
            "RLHF_PROCESS_INDEX": str(index),
        }
        if cache is not None:
            environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        words = [sys.executable, *map(str, command)]
        begun.append(
            subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    return begun


def ends(begun, seconds):
    """Wait for all, and return the exit status and the output of each."""
    try:
        said = [process.communicate(timeout=seconds)[0] for process in begun]
    finally:
        for process in begun:
            process.kill()
    return [(process.returncode, text) for process, text in zip(begun, said, strict=True)]


def run(command, count, *, devices=1, seconds=400, cache=None):
    """Run processes to their end, which has to be a good one, and return their output."""
    found = ends(start(command, count, devices=devices, cache=cache), seconds)
    assert [status for status, _ in found] == [0] * count, "\n".join(text[-3000:] for _, text in found)
    return [text for _, text in found]
