"""Workers as an array of Slurm's jobs: submitit submits them, and queues them again in time.

Jobs are known by their name, so that any command may look at them or end them. What `squeue` does
not list is over; accounting, which many clusters lack, is asked nothing.
"""

from __future__ import annotations

import getpass
import importlib.util
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from golf_opt.config.errors import UsageError
from golf_opt.config.on import SlurmConfig
from golf_opt.fleet.base import Tally, Unreachable, last_words
from golf_opt.fleet.job import SlurmJob
from golf_opt.utils.text import one_line

QUEUED = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")
RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT")
ANSWER_S = 60  # that squeue and scancel may take
MOST_REQUEUES = 10_000  # of a job whose time is up
SIGNAL_S = 60  # before the time limit: SIGUSR2


class Slurm:
    """The jobs of one study.

    Args:
        config: what each job asks for.
        name: of the jobs; no other study's have it.
        command: of a worker.
        folder: of their logs, on a file system that all nodes share.

    Raises:
        UsageError: submitit or Slurm is missing.
    """

    stays = True

    def __init__(
        self, config: SlurmConfig, name: str, command: Sequence[str], folder: Path
    ) -> None:
        if importlib.util.find_spec("submitit") is None:
            raise UsageError(
                "on=slurm needs the package submitit, which is not installed: "
                "pip install 'golf-opt[slurm]'"
            )
        if shutil.which("sbatch") is None:
            raise UsageError("on=slurm needs Slurm, but there is no sbatch here; try a login node.")
        self._config, self._name, self._folder = config, name, folder
        self._job = SlurmJob(command)

    def start(self, count: int) -> None:
        from submitit.core.utils import FailedJobError
        from submitit.slurm.slurm import SlurmExecutor

        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)  # its jobs unpickle what lies there
        executor = SlurmExecutor(self._folder, max_num_timeout=MOST_REQUEUES)
        executor.update_parameters(**self._parameters(count))
        try:
            with executor.batch():
                for _ in range(count):
                    executor.submit(self._job)
        except (FailedJobError, subprocess.SubprocessError, OSError) as error:
            raise UsageError(f"Slurm takes no workers: {one_line(str(error), 300)}") from error

    def _parameters(self, count: int) -> dict[str, Any]:
        asked = self._config
        more = {name.replace("-", "_"): value for name, value in asked.options.items()}
        return {
            "job_name": self._name,
            "array_parallelism": count,
            "time": asked.minutes,
            "cpus_per_task": asked.cpus,
            "signal_delay_s": SIGNAL_S,
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True} | more,
            **({"partition": asked.partition} if asked.partition else {}),
            **({"gpus_per_node": asked.gpus} if asked.gpus else {}),
            **({"mem": asked.memory} if asked.memory else {}),
        }

    def tally(self) -> Tally:
        found = Counter(self._ask("squeue", "--noheader", "--array", "--format=%T").split())
        return Tally(sum(found[state] for state in QUEUED), sum(found[state] for state in RUNNING))

    def stop(self, queued: bool = False) -> None:
        self._ask("scancel", *(["--state=PENDING"] if queued else []))

    def last_words(self) -> str:
        return last_words(self._folder)

    def _ask(self, program: str, *options: str) -> str:
        """Return what one of Slurm's programs says about the study's jobs.

        Raises:
            Unreachable: Slurm's controller does not answer.
        """
        command = [program, f"--user={getpass.getuser()}", f"--name={self._name}", *options]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S)
        except (OSError, subprocess.SubprocessError) as error:
            raise Unreachable(str(error)) from error
        if ran.returncode != 0:
            raise Unreachable(one_line(ran.stderr, 300) or f"{program} failed")
        return ran.stdout
