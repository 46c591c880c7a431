"""`golf-opt doctor`: what it says of this machine, and each of its warnings."""

from __future__ import annotations

import json
import re
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT, Ran, golf_in

from golf_opt.cli.compose import compose
from golf_opt.config import schema
from golf_opt.config.check import load
from golf_opt.config.schema import DataConfig, StorageConfig
from golf_opt.engines.cuda.driver import Found
from golf_opt.engines.cuda.verdict import Verdict
from golf_opt.manage import doctor
from golf_opt.storage import connect

if TYPE_CHECKING:
    from postgres import Server

pytest_plugins = ["postgres"]

PARTS = [
    "python", "packages", "compiler", "cores", "gpu", "nvrtc", "data", "storage", "disk", "cache",
    "engine",
]  # fmt: skip
GPU = Found("NVIDIA Made Up", "550.54, CUDA 12.4", "sm_90", 80_000_000_000)
URL = "postgresql://golf:s3cret@127.0.0.1:1/golf"


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MEASURED_S", 0.3)
    monkeypatch.setattr(doctor, "find_gpu", lambda: None)


def test_a_page_about_this_machine(golf: Callable[..., Ran], tmp_path: Path) -> None:
    ran = golf("doctor", "arch=c2-2", f"data.root={tmp_path}")
    assert (ran.status, ran.err) == (0, "")
    head, *lines, last = ran.out.splitlines()
    assert head.startswith("golf-opt ")
    found = [re.match(r"(ok|warning) +(\w+) ", line) for line in lines if "->" not in line]
    assert [match[2] for match in found if match] == PARTS
    warnings = sum(line.startswith("warning") for line in lines)
    assert warnings >= 1 and last == f"{warnings} warning{'s' * (warnings > 1)}"
    assert not (tmp_path / "studies").exists()


def test_json_holds_no_secret(golf: Callable[..., Ran]) -> None:
    ran = golf("doctor", "arch=c2-2", "format=json", f"storage.url={URL}")
    assert (ran.status, ran.err) == (0, "")
    told = json.loads(ran.out)
    lines = {line["part"]: line for line in told["lines"]}
    assert list(lines) == PARTS and "s3cret" not in ran.out
    assert not lines["storage"]["ok"] and "127.0.0.1" in lines["storage"]["advice"]
    rate = re.search(r"lanes: ([\d,]+) images/s of c2-2", lines["engine"]["found"])
    assert rate is not None and int(rate[1].replace(",", "")) > 0


def test_the_page_of_the_docs_is_such_a_one() -> None:
    page = (ROOT / "docs" / "machines.md").read_text()
    shown = page.split("$ golf-opt doctor\n")[1].split("```")[0]
    parts = re.findall(r"^(?:ok|warning) +(\w+) ", shown, re.M)
    assert parts == PARTS


# --- warnings


def test_packages_that_do_not_fit() -> None:
    fits = doctor.packages_line(["numpy>=2", "torch", "none-such; extra == 'dev'"])
    assert fits.advice is None and fits.found.startswith("torch ")
    wrong = doctor.packages_line(["numpy>=99", "none-such"]).advice
    assert wrong is not None and re.match(
        r"numpy is [\d.]+, but must be >=99; none-such is missing; install golf-opt again", wrong
    )


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "none-such")
    line = doctor.compiler_line()
    assert line.found == "none that works" and "CXX is 'none-such'" in str(line.advice)
    config = load(schema.DoctorConfig, compose("doctor", ["arch=c2-2"]))
    (engine,) = doctor.engine_lines(config, None)
    assert engine.found.startswith("torch on cpu") and "engine=auto takes torch" in str(
        engine.advice
    )


def test_a_compiler_without_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "c++"
    fake.write_text("#!/bin/sh\necho 'plain 1.0'\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(fake))
    line = doctor.compiler_line()
    assert line.found == "plain 1.0; c, 1 floats a vector" and "set CXX" in str(line.advice)


def test_cores_that_are_not_ours(tmp_path: Path) -> None:
    assert doctor.cores_line(8, 8.5, None).advice is None
    assert "others compute" in str(doctor.cores_line(8, 12.5, 8).advice)
    assert "engine.lanes=2" in str(doctor.cores_line(8, 0.1, 2.5).advice)
    limit = tmp_path / "cpu.max"
    assert doctor.quota(limit) is None
    limit.write_text("max 100000\n")
    assert doctor.quota(limit) is None
    limit.write_text("250000 100000\n")
    assert doctor.quota(limit) == 2.5


def test_a_gpu_whose_driver_is_ill() -> None:
    assert doctor.gpu_line(GPU).found == "NVIDIA Made Up, sm_90, 80 GB, driver 550.54, CUDA 12.4"
    ill = doctor.gpu_line(replace(GPU, why="its driver failed: cuInit says 999"))
    assert "cuInit says 999" in ill.found and "nvidia-smi" in str(ill.advice)


def test_a_gpu_without_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert doctor.nvrtc_line(None).advice is None
    assert "install a CUDA build of PyTorch" in str(doctor.nvrtc_line(GPU).advice)


def test_a_gpu_that_failed() -> None:
    passed = Verdict("H", None, 11.0, lanes=264, rate=4e6, rival_lanes=8, rival_rate=1e5)
    line = doctor.proof_line(passed)
    assert line == doctor.Line(
        "proof", "H: 4,000,000 images/s in 264 lanes, native 100,000 in 8; "
        "checked against native in 11 s",
    )  # fmt: skip
    failed = doctor.proof_line(Verdict("H", "it hangs", kept="/c/proof-1.json"))
    assert failed.found == "H failed: it hangs"
    assert "delete /c/proof-1.json to check it again" in str(failed.advice)


def test_a_gpu_that_fails_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proof is made of it, or its verdict read, and the engine is measured all the same."""
    monkeypatch.setattr(
        doctor, "verdict_on", lambda *given: Verdict(GPU.name, "its gradients are off")
    )
    config = load(schema.DoctorConfig, compose("doctor", ["arch=c2-2", "engine.device=cpu"]))
    proof, engine = doctor.engine_lines(config, GPU)
    assert proof.advice is not None and engine.part == "engine"


def test_data_that_is_not_there(tmp_path: Path) -> None:
    missing = doctor.data_line(DataConfig("auto", tmp_path))
    assert missing.found == f"no mnist in {tmp_path}" and "downloads it" in str(missing.advice)
    damaged = doctor.data_line(DataConfig(str(tmp_path / "none.npz"), tmp_path))
    assert damaged.advice is not None and "none.npz" in damaged.advice


@pytest.mark.mnist
def test_data_that_is_there(mnist_root: Path) -> None:
    line = doctor.data_line(DataConfig("auto", mnist_root))
    assert line.found == f"mnist in {mnist_root}: 60,000 and 10,000 images" and line.advice is None


def test_a_storage_that_does_not_answer() -> None:
    line = doctor.storage_line(StorageConfig(URL))
    assert line.found == "cannot be used" and "s3cret" not in str(line.advice)
    assert "GOLF_STORAGE_URL is not set" in str(
        doctor.storage_line(StorageConfig(None, "GOLF_STORAGE_URL")).advice
    )


def test_a_storage_that_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = StorageConfig(f"sqlite:///{tmp_path}/golf.db")
    assert doctor.storage_line(config).found == f"{tmp_path}/golf.db: made by the first study"
    assert not list(tmp_path.iterdir())
    golf_in(tmp_path, "study", "data=digits", "engine=torch", "trials=1", "epochs=1", "dir=.")
    well = doctor.storage_line(config)
    assert well.advice is None and re.search(r"golf.db: answers in [\d.]+ ms", well.found)
    monkeypatch.setattr(doctor, "SLOW_S", 0.0)
    assert doctor.storage_line(config).advice == doctor.SLOW


def test_sqlite_on_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/x {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr(doctor, "file_system", lambda path: connect.file_system(path, mounts))
    line = doctor.storage_line(StorageConfig(f"sqlite:///{tmp_path}/golf.db"))
    assert "nfs4 is a network's" in str(line.advice)
    assert doctor.storage_line(StorageConfig(f"journal:{tmp_path}/journal.log")).advice is None


@pytest.mark.postgres
def test_a_server_that_answers(postgres: Server) -> None:
    line = doctor.storage_line(StorageConfig(postgres.url(postgres.create_database())))
    assert line.advice is None and line.found.startswith("postgresql")
    assert ":***@" in line.found and ": answers in " in line.found


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = tmp_path / "new" / "folder"
    assert doctor.disk_line("disk", new).found.endswith(f"GB free for {new}")
    monkeypatch.setattr(doctor, "LEAST_FREE", 1e18)
    assert "make room" in str(doctor.disk_line("disk", new).advice)


def test_a_cache_that_cannot_be_written_to() -> None:
    line = doctor.cache_line(Path("/proc/nowhere"))
    assert line.found == "/proc/nowhere cannot be written to" and "GOLF_CACHE" in str(line.advice)


def test_an_engine_that_cannot_be_had() -> None:
    config = load(schema.DoctorConfig, compose("doctor", ["arch=c2-2", "engine=python"]))
    (line,) = doctor.engine_lines(config, None)
    assert line.found == "python cannot be had" and line.advice is not None
