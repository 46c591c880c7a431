"""A Slurm of one node for the tests, with a munge of its own: no service, gone at the end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.postgres import free_port

START_TIMEOUT_S = 30
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
CPUS = 2  # that the node says it has
CONF = """\
ClusterName=test
SlurmctldHost=@HOST@(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=@DIR@/munge.socket,cred_expire=5
StateSaveLocation=@DIR@/state
SlurmdSpoolDir=@DIR@/spool
SlurmctldPidFile=@DIR@/ctld.pid
SlurmdPidFile=@DIR@/d.pid
SlurmctldLogFile=@DIR@/ctld.log
SlurmdLogFile=@DIR@/d.log
SlurmctldPort=@CTLD_PORT@
SlurmdPort=@D_PORT@
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=10
SchedulerParameters=sched_interval=2,batch_sched_delay=0,bf_interval=2
NodeName=@HOST@ NodeAddr=127.0.0.1 CPUs=@CPUS@ State=UNKNOWN
PartitionName=p Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Say why there can be no Slurm here; None where there can."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    if absent := [name for name in PROGRAMS if shutil.which(name, path=path) is None]:
        return f"Slurm is not installed: {', '.join(absent)} missing (slurm-wlm, munge)"
    return "Slurm's daemons are started as root" if os.getuid() else None


@contextmanager
def started() -> Iterator[Path]:
    """Start a Slurm; yield its configuration, which belongs into $SLURM_CONF."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="golf-slurm-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        words = {
            "HOST": socket.gethostname().partition(".")[0], "DIR": str(folder), "CPUS": str(CPUS),
            "CTLD_PORT": str(free_port()), "D_PORT": str(free_port()),
        }  # fmt: skip
        conf = folder / "slurm.conf"
        text = CONF
        for word, value in words.items():
            text = text.replace(f"@{word}@", value)
        conf.write_text(text)
        key = folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        files = {"key": key.name, "socket": "munge.socket", "pid": "munge.pid"}
        options = [
            f"--{kind}-file={folder}/{name}" for kind, name in files.items() if kind != "socket"
        ]
        options += [f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
        for command in (
            ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *options],
            ["slurmctld", "-D", "-f", str(conf)],
            ["slurmd", "-D", "-f", str(conf), "-N", words["HOST"]],
        ):
            stack.enter_context(daemon(command, folder))
        wait_until_idle(conf, folder)
        yield conf
        ask(conf, "scancel", "--user=root")  # what a test that failed has left
        deadline = time.monotonic() + START_TIMEOUT_S
        while ask(conf, "squeue", "--noheader") and time.monotonic() < deadline:
            time.sleep(0.2)


@contextmanager
def daemon(command: list[str], folder: Path) -> Iterator[None]:
    program = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None
    with (folder / f"{command[0]}.out").open("wb") as log:
        process = subprocess.Popen([program, *command[1:]], stdout=log, stderr=log)
    try:
        if command[0] == "munged":
            wait_for(folder / "munge.socket", process)
        yield
    finally:
        process.kill()  # nothing of it is to be kept
        process.wait()


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args} did not start")
        time.sleep(0.05)


def wait_until_idle(conf: Path, folder: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while ask(conf, "sinfo", "--noheader", "--format=%T").strip() != "idle":
        if time.monotonic() > deadline:
            logs = "\n".join(log.read_text()[-2000:] for log in folder.glob("*.log"))
            raise RuntimeError(f"Slurm did not start:\n{logs}")
        time.sleep(0.2)


def ask(conf: Path, *command: str) -> str:
    """Return what one of Slurm's programs says."""
    environment = os.environ | {"SLURM_CONF": str(conf)}
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def slurm() -> Iterator[Path]:
    """The configuration of a Slurm of the module's own; skip where it cannot be had."""
    if (why := missing()) is not None:
        pytest.skip(why)
    with started() as conf:
        yield conf
