"""Workers as actors of a Ray cluster.

They are detached and known by name, so that any command may look at them or end them, and Ray
starts them again elsewhere when their node is lost. It is told nothing of trials.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from golf_opt.config.errors import UsageError
from golf_opt.config.on import RayConfig
from golf_opt.fleet.base import Tally, Unreachable, last_words
from golf_opt.utils.processes import ending_with_us
from golf_opt.utils.text import one_line

NAMESPACE = "golf-opt"
ANSWER_S = 3.0  # an actor that has not answered by then waits for its place


class RayWorker:
    """An actor that has a worker as its child, and ends when the worker does."""

    def __init__(
        self, command: Sequence[str], folder: str, log: str, environment: Mapping[str, str]
    ) -> None:
        import ray

        path = Path(folder, log)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            self._process = subprocess.Popen(
                ending_with_us(command), cwd=folder, env=os.environ | environment,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        this = ray.get_runtime_context().current_actor
        threading.Thread(target=self._end, args=(ray, this), daemon=True).start()

    def _end(self, ray: Any, actor: Any) -> None:
        self._process.wait()
        ray.kill(actor)  # for good: it is not started again

    def is_there(self) -> bool:
        return True

    def stop(self) -> None:
        self._process.terminate()


class Ray:
    """The actors of one study.

    Args:
        config: where the cluster is, and what each worker asks for.
        name: that those of the actors begin with; no other study's do.
        command: of a worker.
        folder: of their logs, as seen from the working directory.

    Raises:
        UsageError: Ray is missing, or no cluster answers.
    """

    stays = True

    def __init__(self, config: RayConfig, name: str, command: Sequence[str], folder: Path) -> None:
        if importlib.util.find_spec("ray") is None:
            raise UsageError(
                "on=ray needs the package ray, which is not installed: pip install 'golf-opt[ray]'"
            )
        import ray

        self._ray: Any = ray
        self._config, self._name, self._command, self._folder = config, name, command, folder
        try:
            self._ray.init(
                config.address, namespace=NAMESPACE, logging_level="ERROR", log_to_driver=False
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"no Ray cluster answers at {config.address}: {one_line(str(error), 200)}; "
                "start one with: ray start --head"
            ) from error

    def start(self, count: int) -> None:
        kind = self._ray.remote(RayWorker)
        options = {
            "namespace": NAMESPACE, "lifetime": "detached", "max_restarts": -1,
            "num_cpus": self._config.cpus, "num_gpus": self._config.gpus,
        }  # fmt: skip
        ours = {key: value for key, value in os.environ.items() if key.startswith("GOLF_")}
        for _ in range(count):
            name = f"{self._name}-{uuid.uuid4().hex[:8]}"
            log = f"{self._folder}/{name[-8:]}.log"
            kind.options(name=name, **options).remote(self._command, str(Path.cwd()), log, ours)

    def tally(self) -> Tally:
        running, queued = self._actors_by_state()
        return Tally(len(queued), len(running))

    def stop(self, queued: bool = False) -> None:
        running, waiting = self._actors_by_state()
        for actor in waiting:
            self._ray.kill(actor)
        for actor in [] if queued else running:
            actor.stop.remote()

    def last_words(self) -> str:
        return last_words(self._folder)

    def _actors_by_state(self) -> tuple[list[Any], list[Any]]:
        """Return the actors that answer, and those that wait for their place.

        Raises:
            Unreachable: the cluster does not answer.
        """
        asked = {actor.is_there.remote(): actor for actor in self._actors()}
        if not asked:
            return [], []
        answered, waiting = self._ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
        return [asked[ref] for ref in answered if self._is_there(ref)], [asked[w] for w in waiting]

    def _is_there(self, answer: Any) -> bool:
        try:
            return bool(self._ray.get(answer))
        except self._ray.exceptions.RayError:
            return False  # it ended this moment

    def _actors(self) -> list[Any]:
        """Return the study's actors.

        Raises:
            Unreachable: the cluster does not answer.
        """
        try:
            names = self._ray.util.list_named_actors()
        except Exception as error:  # of gRPC, of Ray, of the connection
            raise Unreachable(one_line(str(error), 200)) from error
        found = []
        for name in names:
            if name.startswith(f"{self._name}-"):
                with contextlib.suppress(ValueError):  # it ended this moment
                    found.append(self._ray.get_actor(name))
        return found
