"""Whether a GPU is used: it has proved itself for the net, and is faster than the CPU.

The proof is made once, in a process of its own that is killed if it does not answer. Its verdict is
kept in the cache folder: for this GPU, driver, NVRTC, code, CPU and net.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from golf_opt.config.errors import UsageError
from golf_opt.engines.base import Message
from golf_opt.engines.cuda.driver import Found, find_gpu
from golf_opt.engines.cuda.program import Block, nvrtc_version
from golf_opt.engines.native import library, physical_cores, unsupported
from golf_opt.engines.native.codegen import generate
from golf_opt.engines.process import ChildProcess
from golf_opt.task.arch import Net

PROOF = "golf_opt.engines.cuda.proof"
DEVICE, RIVAL = "golf_opt.engines.cuda.devices:Gpu", f"{PROOF}:native_or_torch"
PATIENCE_S, COMPILE_S = 30.0, 300.0  # without a word from the proof
UNHURRIED = ("its start", "the compile")  # what takes long on a slow CPU or disk
RACE_S = 2.0


@dataclass(frozen=True)
class Verdict:
    """What a proof found. Rates are images a second; without a race they are 0."""

    gpu: str
    why: str | None  # it failed; None: it passed
    seconds: float = 0.0  # that it took
    rival: str = "native"  # the engine that it was held to
    lanes: int = 0
    rate: float = 0.0  # of the GPU with its lanes full
    rate_of_one: float = 0.0  # of a single lane
    rival_lanes: int = 1
    rival_rate: float = 0.0  # with its lanes full
    layouts: dict[str, dict[str, Any]] = field(default_factory=dict)  # tuned, by batch size
    kept: str = ""  # the file that it is read from

    def times(self, trials: int | None) -> float:
        """Return how many times the rival's speed the GPU has with so many trials side by side.

        Between one lane and all its speed grows by no less than a straight line.
        """
        busy = min(trials or self.lanes, self.lanes)
        along = (busy - 1) / max(1, self.lanes - 1)
        rate = self.rate_of_one + along * (self.rate - self.rate_of_one)
        rival_busy = min(trials or self.rival_lanes, self.rival_lanes)
        rival_rate = self.rival_rate * rival_busy / self.rival_lanes
        return max(rate, 1.0) / max(rival_rate, 1.0)  # either may stand still

    def in_words(self, trials: int | None) -> str:
        """Return the line that says what `engine=auto` takes, and why."""
        if self.why is not None:
            return f"engine=auto takes {self.rival}: {self.gpu}: {self.why}; see golf-opt doctor"
        times, busy = self.times(trials), min(trials or self.lanes, self.lanes)
        of = f"{busy} of {self.lanes} lanes" if busy < self.lanes else f"{self.lanes} lanes"
        taken, left = ("cuda", self.rival) if times > 1 else (self.rival, "cuda")
        ratio = times if times > 1 else 1 / times
        return (
            f"engine=auto takes {taken}: {ratio:.3g} times {left} here ({self.gpu}, {of}), checked "
            f"against {self.rival} in {self.seconds:.0f} s"
        )


class _Passing(Exception):
    """A verdict that may be another one in a minute, so it is not kept."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.why)
        self.verdict = verdict


def takes_gpu(net: Net, lanes: int | None, trials: int | None, say: Message) -> Verdict | None:
    """Return the verdict by which `engine=auto` trains a net on the GPU, None where it does not.

    Where there is a GPU, the user is told.

    Args:
        net: that all trials have.
        lanes: that were asked for; None: what the engine finds useful.
        trials: side by side at most; None: as many as there are lanes.
        say: prints a line to the user.
    """
    if any(most is not None and most <= physical_cores() for most in (trials, lanes)):
        return None  # each trial has a core to itself
    if unsupported(net) is not None or (gpu := find_gpu()) is None:
        return None
    verdict = verdict_on(gpu, net, lanes, say)
    say(verdict.in_words(trials))
    return verdict if verdict.why is None and verdict.times(trials) > 1 else None


def require_proof(net: Net, lanes: int | None, say: Message) -> Verdict | None:
    """Let a GPU prove itself for a net, however fast it is; return its verdict.

    Raises:
        UsageError: it fails.
    """
    if (gpu := find_gpu()) is None:
        return None  # as the engine itself says in a moment
    verdict = verdict_on(gpu, net, lanes, say, race=False)
    if verdict.why is not None:
        raise UsageError(
            f"engine is 'cuda', but {gpu.name} failed its check ({verdict.why}); use "
            "engine=native, and see golf-opt doctor."
        )
    return verdict


def verdict_on(
    gpu: Found, net: Net, lanes: int | None, say: Message, *, race: bool = True
) -> Verdict:
    """Return the verdict on a GPU for a net, from the cache folder or by a proof."""
    rival = "native" if library.compiler() else "torch"

    def make(folder: Path) -> Path:
        answer = _proof(_question(net, lanes, RACE_S if race else 0.0, layouts))
        passing = answer.pop("passing", False)
        verdict = Verdict(**{"gpu": gpu.name, "rival": rival, "layouts": layouts} | answer)
        if passing:
            raise _Passing(verdict)
        made = folder / "made.json"
        made.write_text(json.dumps(asdict(verdict)))
        return made

    try:
        if gpu.why is not None:
            raise UsageError(gpu.why)
        layouts = tuned(gpu, net)
        key = library.key_of(*_depends_on(gpu, net, lanes), str(race), json.dumps(layouts))
        note = f"checking {gpu.name} for {net.name}, once"
        path = library.cached(f"proof-{key}.json", make, lambda: say(note))
    except _Passing as passing:
        return passing.verdict
    except UsageError as missing:
        why = str(missing).splitlines()[0].removesuffix(", or use engine=native.")
        return Verdict(gpu.name, why, rival=rival)
    return Verdict(**json.loads(path.read_text()) | {"kept": str(path)})


# --- tuned layouts ---

Layouts = dict[str, dict[str, Any]]  # fields of a `Block` by batch size


def tuned(gpu: Found, net: Net) -> Layouts:
    """Return the layouts that `golf-opt tune` kept of a net on a GPU; none where it has not run.

    Raises:
        UsageError: NVRTC is not there, or a compiler does not work.
    """
    path = library.kept(_layouts_name(gpu, net))
    found: Layouts = json.loads(path.read_text()) if path else {}
    return found


def keep_tuned(gpu: Found, net: Net, layouts: Layouts) -> None:
    """Keep layouts in the place of those before, for as long as a verdict would be kept."""

    def make(folder: Path) -> Path:
        made = folder / "made.json"
        made.write_text(json.dumps(layouts))
        return made

    name = _layouts_name(gpu, net)
    library.forget(name)
    if layouts:
        library.cached(name, make, lambda: None)


def _layouts_name(gpu: Found, net: Net) -> str:
    return f"layouts-{library.key_of(*_depends_on(gpu, net, None))}.json"


def measured(net: Net, batch_size: int, block: Block, seconds: float) -> dict[str, Any]:
    """Let a layout prove itself at a batch size; return its `rate` in images a second, or `why`."""
    layouts = {str(batch_size): asdict(block)}
    return _proof(_question(net, None, seconds, layouts, only=batch_size))


# --- the proof's process ---


def _question(
    net: Net, lanes: int | None, race_s: float, layouts: Layouts, only: int | None = None
) -> dict[str, Any]:
    asked = {"net": net.arch, "input": net.input.to_dict(), "device": DEVICE, "rival": RIVAL}
    return asked | {"lanes": lanes, "race_s": race_s, "layouts": layouts, "only": only}


def _depends_on(gpu: Found, net: Net, lanes: int | None) -> list[str]:
    """Return what a verdict depends on, the kernel's sources aside.

    Raises:
        UsageError: NVRTC is not there, or a compiler does not work.
    """
    compiler = library.compiler()
    cpu = library.key_of_build([compiler], "") if compiler else platform.processor()
    code = [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]
    programs = [gpu.name, gpu.driver, gpu.arch, nvrtc_version(), version("torch")]
    return [*programs, generate(net), str(lanes), cpu, str(physical_cores()), *code]


def _proof(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Have a process make the proof; return its answer, or why there is none."""
    said: list[str] = []
    stage, patience_s = "its start", COMPILE_S
    process = ChildProcess(PROOF, asked, 1, said.append)
    try:
        while True:
            patience_s = COMPILE_S if stage in UNHURRIED else PATIENCE_S
            message = process.take(patience_s)
            if message is None:
                how = process.ended_with()  # all that it printed is read by then
                last = f" ({said[-1]})" if said else ""
                return {"why": f"the process that checks it ended with {how} in {stage}{last}"}
            if "stage" not in message:
                return message
            stage = message["stage"]
    except TimeoutError:
        return {"why": f"it hangs: no answer for {patience_s:g} s in {stage}"}
    finally:
        process.kill()
