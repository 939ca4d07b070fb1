"""The files of ``launch/``: they parse, what they run exists with every flag, and the restart wrapper restarts."""

import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from rlhf_jax import cli
from rlhf_jax.cli import distributed
from rlhf_jax.cli.doctor import DoctorOptions
from rlhf_jax.cli.launch import LaunchOptions
from rlhf_jax.cli.parsing import parse
from rlhf_jax.cli.stage_options import stage_and_config

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "launch"
SCRIPTS = sorted([*FOLDER.glob("*.sh"), *FOLDER.glob("*.sbatch")])
PAGES = [FOLDER / "README.md", ROOT / "docs/pods.md"]
FILES = [*SCRIPTS, *FOLDER.glob("*.yaml"), *PAGES]
OPTIONS = {"doctor": DoctorOptions, "launch": LaunchOptions}


def shown(path):
    return path.name


def text_of(path):
    """What a file runs, a command a line: fenced blocks of a page, arguments of a container, lines of a script."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = "\n".join(re.findall(r"^```\n(.*?)^```", text, flags=re.M | re.S))
    if path.suffix == ".yaml":
        text = " ".join(container()["args"])
    return text.replace("\\\n", " ")


def commands(path):
    """Every ``rlhf COMMAND ...`` that a file runs, as words; comments and what is left open (...) are cut off."""
    found = []
    for line in text_of(path).splitlines():
        code = re.sub(r"(^|\s)#.*", "", line) if path.suffix != ".yaml" else line
        code = code.replace('"$out"', "/runs").replace('"$out/', '"/runs/').partition(" ...")[0]
        for part in re.split(r"&&|\|\||;|\sthen\s", code):
            match = re.search(r"(?:^|[\s\"'])(rlhf (?:[a-z]+) .*)", f" {part.strip()} ")
            if match:
                words = shlex.split(match[1].rstrip("' "))
                if words[1] in cli.COMMANDS:
                    found.append(words)
    return found


def container():
    job = yaml.safe_load((FOLDER / "gke_jobset.yaml").read_text(encoding="utf-8"))
    return job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]


def check(words):
    """Parse a command's words with its own parser, which ends the program on a flag that there is not."""
    name, rest = words[1], words[2:]
    if name == "launch":
        end = rest.index("--")
        parse(LaunchOptions, name, rest[:end])
        if rest[end + 1] == "rlhf":
            check(rest[end + 1 :])
        return
    _, rest = distributed.take(rest)
    if name in OPTIONS:
        parse(OPTIONS[name], name, rest)
    elif name in ("sft", "reward", "ppo", "group", "preference"):
        cli.override(stage_and_config(name, "")[1], name, rest)
    else:
        with pytest.raises(SystemExit):  # its help is there, so is the command
            cli.COMMANDS[name](["--help"])


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_every_command_in_it_can_be_given(path):
    found = commands(path)
    assert found or path.name == "restart.sh"
    for words in found:
        check(words)


def test_the_commands_are_found():
    """So that the test above looks at something."""
    assert [words[1] for words in commands(FOLDER / "gke_jobset.yaml")] == ["doctor", "sft"]
    assert [words[1] for words in commands(FOLDER / "slurm.sbatch")] == ["doctor", "sft"]
    assert "--checkpoint-every" in commands(FOLDER / "slurm.sbatch")[1]
    assert ["rlhf", "doctor", "--distributed", "auto", "--out", "/runs"] in commands(FOLDER / "gce_tpu.sh")


def test_a_flag_that_there_is_not_is_caught():
    with pytest.raises(SystemExit):
        check(["rlhf", "sft", "--distributed", "auto", "--chekpoint-every", "3"])


@pytest.mark.parametrize("path", SCRIPTS, ids=shown)
def test_it_is_a_script(path):
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert path.read_text().startswith("#!/")
    assert path.suffix == ".sbatch" or path.stat().st_mode & 0o100


def test_every_file_is_in_the_page_and_every_link_leads_somewhere():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in FOLDER.iterdir():
        assert path.name == "README.md" or f"({path.name})" in text, path.name
    for link in re.findall(r"\]\(([^)#\s]+)", text):
        assert re.match(r"[a-z]+:", link) or (FOLDER / link).resolve().exists(), link


def test_the_job_set_has_a_pod_a_host():
    job = yaml.safe_load((FOLDER / "gke_jobset.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    spec = job["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = spec["template"]["spec"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = 1
    for side in topology.split("x"):
        chips *= int(side)
    each = container()["resources"]["limits"]["google.com/tpu"]
    assert spec["parallelism"] == spec["completions"] == chips // each
    # The mesh is that of all chips.
    words = commands(FOLDER / "gke_jobset.yaml")[1]
    assert words[words.index("--mesh") + 1] == f"data=1,fsdp={chips}"
    assert pod["volumes"][0]["name"] == container()["volumeMounts"][0]["name"]
    rule = spec["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert rule["containerName"] == container()["name"]
    assert rule["values"] == [2]


def test_the_batch_job_has_a_process_a_gpu():
    text = (FOLDER / "slurm.sbatch").read_text(encoding="utf-8")
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, flags=re.M))
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]
    assert asked["signal"].startswith("TERM@")  # to the steps; B: would be the script's alone
    words = commands(FOLDER / "slurm.sbatch")[1]
    data, fsdp = (int(x) for x in re.findall(r"=(\d+)", words[words.index("--mesh") + 1]))
    assert data * fsdp == int(asked["nodes"]) * int(asked["gpus-per-node"])


def slurm(tmp_path, status, restarts=""):
    """Run the batch script with an ``srun`` and a ``scontrol`` that write down what they are told."""
    for name, text in (("srun", f'case "$*" in *doctor*) exit 0;; esac; exit {status}'), ("scontrol", ":")):
        path = tmp_path / name
        path.write_text(f'#!/bin/bash\necho {name} "$@" >> {tmp_path}/told\n{text}\n')
        path.chmod(0o700)
    done = subprocess.run(
        ["bash", str(FOLDER / "slurm.sbatch")],
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "HOME": str(tmp_path),
            "SLURM_JOB_ID": "7",
            "SLURM_RESTART_COUNT": restarts,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, (tmp_path / "told").read_text().splitlines()


@pytest.mark.parametrize(
    ("status", "restarts", "again"),
    [(0, "", False), (2, "", False), (143, "", True), (1, "3", True), (137, "20", False)],
)
def test_the_batch_job_is_queued_again_where_that_helps(status, restarts, again, tmp_path):
    ended, told = slurm(tmp_path, status, restarts)
    assert ("scontrol requeue 7" in told) == again
    assert ended == (0 if again else status)


def gcloud(tmp_path, *words, fails="0"):
    """Run the script with a ``gcloud`` that knows two hosts and writes down what it is told."""
    path = tmp_path / "gcloud"
    path.write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$*" >> {tmp_path}/told\ncase "$*" in\n'
        f'  *list-instances*) printf "h0\\nh1\\n" ;;\n  *"ssh h1"*) exit {fails} ;;\n  *ssh*) echo said ;;\nesac\n'
    )
    path.chmod(0o700)
    done = subprocess.run(
        [str(FOLDER / "gce_tpu.sh"), *words],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PROJECT": "mine", "ZONE": "us-east5-a"},
        capture_output=True,
        text=True,
        check=False,
    )
    told = tmp_path / "told"
    return done, told.read_text().splitlines() if told.exists() else []


def test_a_slice_is_a_policy_a_template_and_a_group(tmp_path):
    done, told = gcloud(tmp_path, "create")
    assert done.returncode == 0, done.stderr
    policy, template, group, wait = told
    assert "resource-policies create workload-policy rlhf --region=us-east5 " in policy
    assert "--accelerator-topology=4x4" in policy
    assert "instance-templates create rlhf --machine-type=ct6e-standard-4t" in template
    assert "--size=4" in group  # hosts of four chips
    assert "--workload-policy=projects/mine/regions/us-east5/resourcePolicies/rlhf" in group
    assert "wait-until rlhf" in wait
    assert all(line.endswith("--project=mine") for line in told)


def test_a_run_starts_on_every_host_with_its_words_as_they_are(tmp_path):
    done, told = gcloud(tmp_path, "run", "rlhf", "sft", "--data.source", "/runs/my data.jsonl")
    assert done.returncode == 0, done.stderr
    started = [line for line in told if " ssh " in line]
    assert sorted(re.search(r"ssh (\w+)", line)[1] for line in started) == ["h0", "h1"]
    assert r"bash $HOME/restart.sh rlhf sft --data.source /runs/my\ data.jsonl" in "\n".join(told)
    assert "[h0] said" in done.stdout


def test_a_host_that_fails_is_the_status(tmp_path):
    assert gcloud(tmp_path, "doctor")[0].returncode == 0
    assert gcloud(tmp_path, "doctor", fails="3")[0].returncode == 1


def test_the_script_explains_itself(tmp_path):
    done, told = gcloud(tmp_path)
    assert (done.returncode, told) == (2, [])
    for word in ("create", "install", "doctor", "run", "log", "stop", "delete"):
        assert f"gce_tpu.sh {word}" in done.stderr


def restart(tmp_path, command, **environment):
    return subprocess.Popen(
        [str(FOLDER / "restart.sh"), "bash", "-c", command],
        env={"PATH": "/usr/bin:/bin", "PAUSE": "0", **environment},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("status", "tries"), [(0, 1), (2, 1), (130, 1), (143, 1), (1, 4), (134, 4)])
def test_the_wrapper_restarts_what_may_pass(status, tries, tmp_path):
    wrapper = restart(tmp_path, f"echo x >> tries; exit {status}", RESTARTS="3")
    _, said = wrapper.communicate(timeout=60)
    assert wrapper.returncode == status
    assert (tmp_path / "tries").read_text() == "x\n" * tries
    assert ("stays so" in said) == (tries > 1)


def test_the_wrapper_goes_on_when_the_command_does(tmp_path):
    wrapper = restart(tmp_path, "echo x >> tries; [ $(wc -l < tries) -ge 3 ]")
    wrapper.communicate(timeout=60)
    assert wrapper.returncode == 0
    assert (tmp_path / "tries").read_text() == "x\n" * 3


def test_the_wrapper_passes_sigterm_on_and_waits_for_the_checkpoint(tmp_path):
    wrapper = restart(
        tmp_path, "trap 'sleep 0.3; touch saved; exit 143' TERM; touch began; while :; do sleep 0.05; done"
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "began").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    wrapper.send_signal(signal.SIGTERM)
    wrapper.communicate(timeout=60)
    assert wrapper.returncode == 143
    assert (tmp_path / "saved").exists()
