"""A GPU proves itself before it is used: emulated ones that do, and one for each way to fail."""

from __future__ import annotations

import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_native import SMALL, net_of, snapshot_of

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import EngineConfig
from golf_opt.engines import create_engine
from golf_opt.engines.cuda import driver, program, verdict
from golf_opt.engines.cuda.devices import Emulation
from golf_opt.engines.cuda.driver import Found, find_gpu
from golf_opt.engines.cuda.proof import Proof, native_or_torch
from golf_opt.engines.cuda.verdict import Verdict
from golf_opt.engines.native import compiler, library, physical_cores
from golf_opt.task.grammar import load_arch

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
AUTO, CUDA = EngineConfig("auto", "auto", None, 1), EngineConfig("cuda", "auto", None, 1)
NET, VIEW = net_of(SMALL), snapshot_of(64)
EMULATION = "golf_opt.engines.cuda.devices:Emulation"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Found]:
    """An emulated GPU that is found where others are, and of which no verdict is known."""
    found = Found(f"Emulated {uuid.uuid4().hex[:8]}", "1.0, CUDA 12.4", "sm_90")
    monkeypatch.setattr(verdict, "find_gpu", lambda: found)
    monkeypatch.setattr(verdict, "nvrtc_version", lambda: "12.4")
    monkeypatch.setattr(verdict, "DEVICE", EMULATION)
    monkeypatch.setattr(verdict, "RACE_S", 0.5)
    monkeypatch.setattr("golf_opt.engines.cuda.engine.Gpu", Emulation)
    yield found
    for path in library.cache_folder().glob("proof-*.json"):
        if found.name in path.read_text():
            for suffix in (".json", ".sha256", ".lock"):
                path.with_suffix(suffix).unlink(missing_ok=True)


def chosen(config: EngineConfig, trials: int | None = None) -> tuple[str, list[str]]:
    """The name of the engine that is taken, and what is said of it; compiles aside."""
    said: list[str] = []
    engine = create_engine(config, VIEW, NET, said.append, trials=trials)
    engine.close()
    return engine.name, [line for line in said if not line.startswith("compiling")]


def test_a_faster_gpu_is_taken_and_the_verdict_kept(
    gpu: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "RIVAL", "faulty_gpus:snail")
    name, said = chosen(AUTO)
    assert name == "cuda" and len(said) == 2
    assert said[0] == f"checking {gpu.name} for {NET.name}, once"
    facts = rf" times native here \({gpu.name}, 4 lanes\), checked against native in \d+ s"
    assert re.fullmatch(rf"engine=auto takes cuda: \S+{facts}", said[1])
    monkeypatch.setattr(verdict, "PROOF", "no.such.module")  # nobody asks it again
    assert chosen(AUTO) == ("cuda", said[1:])
    few = min(physical_cores() + 1, 4)  # more trials than cores
    if few < 4:
        assert f"({gpu.name}, {few} of 4 lanes)" in chosen(AUTO, trials=few)[1][0]


def test_a_slower_gpu_is_left_alone(gpu: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    name, said = chosen(AUTO)
    facts = rf" times cuda here \({gpu.name}, 4 lanes\), checked against native in \d+ s"
    assert name == "native" and re.fullmatch(rf"engine=auto takes native: \S+{facts}", said[1])
    monkeypatch.setattr(verdict, "RIVAL", "faulty_gpus:no_race")
    assert chosen(CUDA)[0] == "cuda"  # whoever asks for it has it, without a race


FAULTS = {
    "WrongGradient": r"the gradient of \S+ is off by [\d.]+% at batch size 4",
    "WrongStep": r"losses are off by (10|9)\.\d+% along 50 steps at batch size 4",
    "WrongResume": r"a training that was stopped goes on as another one \(\S+ differs\)",
    "Fault": "the GPU failed: CUDA error: an illegal memory access was encountered",
    "Crash": r"the process that checks it ended with SIGABRT in the training( \(.*\))?",
    "Hang": "it hangs: no answer for 8 s in the training",
    "Full": r"the GPU has no [\d,]+ bytes left; give fewer lanes",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_gpu_that_fails_is_left_alone(
    gpu: Found, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "DEVICE", f"faulty_gpus:{fault}")
    if fault == "Hang":
        monkeypatch.setattr(verdict, "PATIENCE_S", 8.0)
    name, said = chosen(AUTO)
    line = rf"engine=auto takes native: {gpu.name}: {FAULTS[fault]}; see golf-opt doctor"
    assert name == "native" and len(said) == 2 and re.fullmatch(line, said[1]), said
    monkeypatch.setattr(verdict, "PROOF", "no.such.module")
    again = chosen(AUTO)[1]
    if fault == "Full":  # what others hold now is free later
        assert "No module named" in again[-1]
    else:
        assert again == said[1:]


def test_who_asks_for_a_gpu_that_fails_is_refused(
    gpu: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "DEVICE", "faulty_gpus:WrongGradient")
    with pytest.raises(UsageError, match=r"'cuda', but Emulated \w+ failed its check \(the grad"):
        chosen(CUDA)


def test_without_nvrtc_the_gpu_is_left_alone(gpu: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "nvrtc_version", program.nvrtc_version)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    name, (said,) = chosen(AUTO)
    assert name == "native"
    assert said.startswith(f"engine=auto takes native: {gpu.name}: engine=cuda must have NVRTC")
    with pytest.raises(UsageError, match=r"failed its check .* use engine=native"):
        chosen(CUDA)


def test_a_driver_that_is_ill_is_told(gpu: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    ill = replace(gpu, why="its driver failed: cuInit says 999")
    monkeypatch.setattr(verdict, "find_gpu", lambda: ill)
    said = f"engine=auto takes native: {gpu.name}: {ill.why}; see golf-opt doctor"
    assert chosen(AUTO) == ("native", [said])


def test_a_verdict_is_dropped_with_what_it_depends_on(
    gpu: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    proofs: list[bool] = []

    def proof(asked: object) -> dict[str, object]:
        proofs.append(True)
        return {"why": None, "rate": 2.0, "rate_of_one": 1.0, "lanes": 4, "rival_rate": 1.0}

    monkeypatch.setattr(verdict, "_proof", proof)

    def proved(found: Found = gpu, net: str = "c2-2", lanes: int | None = None) -> bool:
        before = len(proofs)
        verdict.verdict_on(found, load_arch(net), lanes, print)
        return len(proofs) > before

    assert proved() and not proved()
    assert proved(net="c2-3") and not proved(net="c2-3")
    assert proved(lanes=7)
    assert proved(replace(gpu, driver="1.1, CUDA 12.4"))
    with monkeypatch.context() as patch:
        patch.setattr(verdict, "nvrtc_version", lambda: "12.5")
        assert proved()
    with monkeypatch.context() as patch:
        changed = library.sources() | {"conv.hpp": "// another kernel"}
        patch.setattr(library, "sources", lambda: changed)
        assert proved()
    assert not proved()


def test_how_many_trials_there_are_decides() -> None:
    found = Verdict("H", None, lanes=200, rate=2e6, rate_of_one=1e4, rival_lanes=8, rival_rate=4e5)
    assert found.times(None) == found.times(200) == found.times(5000) == pytest.approx(5)
    assert found.times(8) < 1 < found.times(100)
    assert "3.33 times native" in replace(found, rate=4e6 / 3).in_words(None)
    assert "takes native: " in found.in_words(8) and "8 of 200 lanes" in found.in_words(8)


def test_where_every_trial_has_a_core_no_gpu_is_looked_for(
    gpu: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "find_gpu", None)
    assert chosen(AUTO, trials=physical_cores()) == ("native", [])
    assert chosen(replace(AUTO, lanes=1)) == ("native", [])
    assert chosen(replace(AUTO, device="cpu")) == ("native", [])


def test_without_a_compiler_pytorch_is_what_the_gpu_is_held_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stages: list[str] = []
    proof = Proof(NET, Emulation(), native_or_torch, stages.append)
    with monkeypatch.context() as patch:
        patch.setattr("golf_opt.engines.native.library.vectors", _no_compiler)
        proof.check()
    assert proof.beside == "torch"
    assert stages == ["the compile", "the gradients", "the training", "the stop and resume"]


def _no_compiler() -> tuple[str, int]:
    raise UsageError("there is no compiler")


# --- the driver ---

LIBCUDA = """
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
extern "C" {
int cuInit(unsigned flags) { STARTS; return 0; }
int cuDeviceGetCount(int* count) { *count = COUNT; return 0; }
int cuDeviceGet(int* device, int index) { *device = 7 + index; return 0; }
int cuDeviceGetName(char* name, int size, int device) {
    strcpy(name, "NVIDIA Made Up");
    return device != 7;
}
int cuDriverGetVersion(int* version) { *version = 12040; return 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = 80000000000; return device != 7; }
int cuDeviceGetAttribute(int* value, int which, int device) {
    *value = which == 75 ? 9 : 0;
    return device != 7;
}
}
"""


@pytest.fixture
def libcuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a driver there that was made up."""

    def put(starts: str = "", count: int = 1) -> None:
        source, made = tmp_path / "cuda.cpp", tmp_path / f"libcuda{uuid.uuid4().hex}.so"
        source.write_text(LIBCUDA.replace("STARTS", starts).replace("COUNT", str(count)))
        command = [*library.require_compiler(), "-shared", "-fPIC", str(source), "-o", str(made)]
        subprocess.run(command, check=True)
        monkeypatch.setattr(driver, "LIBRARY", str(made))

    return put


def test_a_gpu_is_found_as_its_driver_tells(libcuda: Callable[..., None]) -> None:
    libcuda()
    found = find_gpu()
    assert found is not None and found.why is None
    assert (found.name, found.arch) == ("NVIDIA Made Up", "sm_90")
    assert found.driver.endswith("CUDA 12.4") and found.memory_bytes == 80_000_000_000


@pytest.mark.parametrize(("starts", "count"), [("return 100", 1), ("return 34", 1), ("", 0)])
def test_a_driver_without_a_gpu_is_none(
    libcuda: Callable[..., None], starts: str, count: int
) -> None:
    libcuda(starts, count)
    assert find_gpu() is None


def test_no_driver_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "libnone.so.1")
    monkeypatch.setattr(driver, "subprocess", None)  # nothing is started
    assert find_gpu() is None


@pytest.mark.parametrize(
    ("starts", "why"),
    [
        ("return 999", "its driver failed: cuInit says 999"),
        ("sleep(60)", "its driver did not answer for 2 s"),
        ("_exit(3)", "its driver failed: exit status 3"),
    ],
)
def test_a_driver_that_fails_says_why(
    libcuda: Callable[..., None], starts: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    libcuda(starts)
    monkeypatch.setattr(driver, "PATIENCE_S", 2.0)
    found = find_gpu()
    assert found is not None and found.why == why
