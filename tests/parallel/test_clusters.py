"""Who a process finds that it belongs to: SLURM, Open MPI, GKE, TPU VMs and our own variables, in faked environments.

JAX's own detection runs; what it would start, a service and a client of it, is replaced by something that remembers
what it was told. At the end two processes find each other for real, as SLURM would have started them.
"""

import os
import socket
import subprocess
import sys
from typing import NamedTuple

import pytest
from jax._src import distributed as jax_distributed
from jax._src import xla_bridge
from jax._src.clusters import cloud_tpu_cluster

from rlhf_jax.cli import distributed as words
from rlhf_jax.parallel import DistributedError, initialize

SLURM = {
    "SLURM_JOB_ID": "4096",
    "SLURM_STEP_NODELIST": "node[007-010,012]",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_NODES": "2",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "6",
    "OMPI_COMM_WORLD_RANK": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}
OURS = {"RLHF_COORDINATOR": "10.0.0.2:1234", "RLHF_PROCESS_COUNT": "4", "RLHF_PROCESS_INDEX": "3"}
GKE = {"TPU_WORKER_HOSTNAMES": "rlhf-slice-0-0.rlhf,rlhf-slice-0-1.rlhf,rlhf-slice-0-2.rlhf", "TPU_WORKER_ID": "2"}
# What the metadata server of a TPU VM says, by key.
VM = {"agent-worker-number": "1", "worker-network-endpoints": "a:b:10.1.0.5,a:b:10.1.0.6", "tpu-env": "ZONE: 'x'"}


class Joined(NamedTuple):
    coordinator: str
    count: int
    index: int


class Runtime:
    """In place of JAX's service and client."""

    def __init__(self):
        self.coordinator, self.index, self.bound = "", -1, ""
        self.settings = {}

    def service(self, address, count, **options):
        self.bound = address
        return self

    def client(self, address, index, **options):
        self.coordinator, self.index = address, index
        self.heartbeat = options["heartbeat_timeout"]
        return self

    def connect(self):
        return None

    def initialize(self, client):
        return None


@pytest.fixture
def runtime(monkeypatch):
    """Nobody is around, JAX has not begun, and nothing is sent to anybody."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "TPU_", "RLHF_", "MEGASCALE_", "KUBERNETES_", "JAX_COORDINATOR")):
            monkeypatch.delenv(name)
    fake = Runtime()
    state = jax_distributed.State()
    monkeypatch.setattr(jax_distributed, "global_state", state)
    monkeypatch.setattr(jax_distributed._jax, "get_distributed_runtime_service", fake.service)
    monkeypatch.setattr(jax_distributed._jax, "get_distributed_runtime_client", fake.client)
    monkeypatch.setattr(jax_distributed._jax, "create_preemption_sync_manager", lambda: fake)
    monkeypatch.setattr(xla_bridge, "backends_are_initialized", lambda: False)
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", False)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda key: ("", 404))
    monkeypatch.setattr(jax_distributed.config, "update", fake.settings.__setitem__)
    return fake


def joined(fake):
    return Joined(fake.coordinator, jax_distributed.global_state.num_processes, fake.index)


def put(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_alone_where_nobody_is(runtime):
    initialize()
    assert not jax_distributed.is_initialized()
    assert runtime.index == -1


def test_slurm(runtime, monkeypatch):
    put(monkeypatch, SLURM)
    initialize()
    # The first node of the list; the port follows from the job's number.
    assert joined(runtime) == Joined("node007:61440", 16, 9)
    assert runtime.settings["jax_cuda_visible_devices"] == "1"  # one GPU a process


def test_open_mpi(runtime, monkeypatch):
    put(monkeypatch, OPEN_MPI)
    initialize()
    assert joined(runtime)[1:] == (6, 4)
    assert runtime.coordinator.startswith("10.96.0.1:")
    assert runtime.settings["jax_cuda_visible_devices"] == "0"


def test_gke(runtime, monkeypatch):
    put(monkeypatch, GKE)
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(socket, "gethostbyname", lambda host: "10.0.0.1")
    initialize()
    assert joined(runtime) == Joined("rlhf-slice-0-0.rlhf:8482", 3, 2)


def test_several_slices_of_gke_are_one_run(runtime, monkeypatch):
    put(monkeypatch, GKE)
    put(monkeypatch, {"MEGASCALE_COORDINATOR_ADDRESS": "rlhf-slice-0-0.rlhf"})
    put(monkeypatch, {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"})
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(socket, "gethostbyname", lambda host: "10.0.0.1")
    initialize()
    assert joined(runtime) == Joined("rlhf-slice-0-0.rlhf:8482", 6, 5)


def test_tpu_vms(runtime, monkeypatch):
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda key: (VM.get(key, ""), 200 if key in VM else 404))
    initialize()
    assert joined(runtime) == Joined("10.1.0.5:8482", 2, 1)


@pytest.mark.parametrize("around", [{}, SLURM, OPEN_MPI], ids=["nobody", "slurm", "open mpi"])
def test_our_own_variables_come_first(around, runtime, monkeypatch):
    put(monkeypatch, {**around, **OURS})
    initialize()
    assert joined(runtime) == Joined("10.0.0.2:1234", 4, 3)
    assert runtime.heartbeat == 30  # a host that is gone is missed within a minute


def test_process_0_is_where_the_others_come_to(runtime, monkeypatch):
    put(monkeypatch, {**OURS, "RLHF_PROCESS_INDEX": "0"})
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "127.0.0.1:1234")  # as rlhf launch has it
    initialize()
    assert runtime.bound == "127.0.0.1:1234"


def test_what_is_given_comes_before_the_environment(runtime, monkeypatch):
    put(monkeypatch, OURS)
    asked, rest = words.take(
        ["--coordinator", "10.9.9.9:7", "--process-count=8", "--process-index", "0", "--seed", "1"]
    )
    assert rest == ["--seed", "1"]
    words.join("sft", asked)
    assert joined(runtime) == Joined("10.9.9.9:7", 8, 0)


@pytest.mark.parametrize("around", [SLURM, OURS], ids=["slurm", "ours"])
def test_off_stays_alone_whoever_is_around(around, runtime, monkeypatch):
    """As in a shell that a scheduler has given, where nobody else is going to come."""
    put(monkeypatch, around)
    words.join("sft", words.take(["--distributed", "off"])[0])
    assert not jax_distributed.is_initialized()


def test_a_command_that_runs_alone_does_not_join(runtime, monkeypatch):
    put(monkeypatch, OURS)
    words.join("plan", words.Asked())
    assert not jax_distributed.is_initialized()


def test_words_behind_two_dashes_are_another_commands():
    line = ["--processes", "2", "--", "rlhf", "sft", "--distributed", "auto"]
    assert words.take(line) == (words.Asked(), line)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"RLHF_COORDINATOR": "10.0.0.2:1234"}, "RLHF_PROCESS_COUNT and RLHF_PROCESS_INDEX must be given too"),
        ({**OURS, "RLHF_PROCESS_INDEX": "4"}, "RLHF_PROCESS_INDEX: expected 0 to 3, found '4'"),
        ({**OURS, "RLHF_COORDINATOR": "10.0.0.2"}, "expected HOST:PORT"),
        ({**OURS, "RLHF_PROCESS_COUNT": "none"}, "RLHF_PROCESS_COUNT: expected a whole number"),
    ],
)
def test_variables_that_cannot_be_are_named(given, says, runtime, monkeypatch):
    put(monkeypatch, given)
    with pytest.raises(DistributedError, match=says):
        initialize()


def test_manual_needs_all_three(runtime):
    with pytest.raises(DistributedError, match="manual needs a coordinator"):
        initialize("manual")


def free_job():
    """Find a job number whose port, as JAX makes it, nobody listens at."""
    for job in range(1000, 5000):
        with socket.socket() as port:
            try:
                port.bind(("127.0.0.1", job % 2**12 + 61440))
            except OSError:
                continue
            return str(job)
    raise AssertionError("every port is taken")


def test_two_processes_find_each_other_as_slurm_starts_them():
    code = (
        "from rlhf_jax import parallel, processes\n"
        "parallel.initialize()\n"
        "import jax\n"
        "print(jax.process_index(), jax.process_count(), processes.exchange_json(jax.process_index() + 5))\n"
    )
    step = {**SLURM, "SLURM_JOB_ID": free_job(), "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2"}
    others = {name: value for name, value in os.environ.items() if not name.startswith("XLA_")}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**others, **step, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    said = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert [out.splitlines()[-1] for out, _ in said] == ["0 2 [5, 6]", "1 2 [5, 6]"]
