"""The few endpoints of Kubernetes' API that a fleet uses, for its real client to speak to.

It is no cluster. Jobs are checked by the API's own schemas, and their pods are processes of this
machine that run what the Job's container would: with the environment that its Secret gives, in
place of the image. What a controller does with pods that end is done whenever somebody asks.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from golf_opt.config.schema import StorageConfig
from tests.postgres import PASSWORD

NAMESPACE, IMAGE = "golf", "golf-opt:cpu"
USERS = {"Bearer golfer": 200, "Bearer caddie": 403}
JOBS = re.compile(r"/apis/batch/v1/namespaces/([\w-]+)/jobs(?:/([\w-]+))?")
PODS = re.compile(r"/api/v1/namespaces/([\w-]+)/pods")
BACK_OFF_S = 10.0  # before a container that failed begins again
MOST_OF_A_MESSAGE = 2000  # characters, about as a kubelet keeps them


@dataclass
class Pod:
    """A place of a Job, and the process that has it."""

    name: str
    job: str
    index: int
    process: subprocess.Popen[bytes] | None = None
    ended: bool = False  # well
    deleted: bool = False
    said: str = ""  # by the process that failed last
    again: float = 0.0  # when it may begin, by the monotonic clock


@dataclass
class Cluster:
    """A namespace of Jobs.

    Args:
        folder: of the pods' files.
        secrets: by name, their keys.
        places: pods that it can run at a time.
    """

    folder: Path
    secrets: dict[str, dict[str, str]]
    places: int = 8
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)  # that were posted
    lock: threading.Lock = field(default_factory=threading.Lock)
    port: int = 0

    def kubeconfig(self, user: str = "golfer", namespace: str = NAMESPACE, port: int = 0) -> Path:
        """Write a kubeconfig that leads here, and return its path."""
        path = self.folder / f"{user}-{namespace}-{port}.yaml"
        server = f"http://127.0.0.1:{port or self.port}"
        path.write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": server}}],
            "users": [{"name": user, "user": {"token": user}}],
            "contexts": [{
                "name": "here",
                "context": {"cluster": "here", "user": user, "namespace": namespace},
            }],
        }))  # fmt: skip
        return path

    # --- what controllers do

    def create(self, job: dict[str, Any]) -> dict[str, Any]:
        made = job["metadata"]
        made["name"] = f"{made['generateName']}{len(self.jobs):05}"
        job["status"] = {"succeeded": 0}
        self.jobs[made["name"]] = job
        for index in range(job["spec"]["completions"]):
            self._place(made["name"], index)
        return job

    def _place(self, job: str, index: int) -> None:
        self.pods.append(Pod(f"{job}-{index}-{len(self.pods)}", job, index))

    def lose(self, pod: Pod) -> None:
        """As when a node breaks: its process is gone at once, and another takes its place."""
        with self.lock:
            assert pod.process is not None
            pod.process.kill()
            pod.process.wait()
            self.pods.remove(pod)
            self._place(pod.job, pod.index)

    def control(self) -> None:
        """Look after the pods: end, begin and begin again."""
        for pod in list(self.pods):
            status = None if pod.process is None else pod.process.poll()
            if pod.deleted and (pod.process is None or status is not None):
                self.pods.remove(pod)
            elif status is not None and not pod.ended:
                self._end(pod, status)
        for pod in self.pods:
            waits = pod.process is None and not pod.ended and not pod.deleted
            waits = waits and time.monotonic() >= pod.again
            if waits and len(self.running()) < self.places and self._why_not(pod) is None:
                self._begin(pod)

    def _end(self, pod: Pod, status: int) -> None:
        job, log = self.jobs[pod.job], self.folder / f"{pod.name}.log"
        if status != 0:  # restartPolicy OnFailure
            pod.process, pod.said = None, log.read_text("utf-8", "replace")[-MOST_OF_A_MESSAGE:]
            pod.again = time.monotonic() + BACK_OFF_S
            return
        pod.ended = True
        job["status"]["succeeded"] += 1
        if job["status"]["succeeded"] == job["spec"]["completions"]:
            job["status"]["conditions"] = [{"type": "Complete", "status": "True"}]

    def fail(self, name: str) -> None:
        """As when the pods of a Job have failed more often than its backoffLimit."""
        with self.lock:
            self.jobs[name]["status"]["conditions"] = [{"type": "Failed", "status": "True"}]
            self._end_pods(name)

    def delete(self, name: str) -> None:
        self.jobs.pop(name)
        self._end_pods(name)

    def _end_pods(self, name: str) -> None:
        for pod in self.pods:
            if pod.job == name and not pod.ended:
                pod.deleted = True
                if pod.process is not None:
                    pod.process.terminate()

    def running(self) -> list[Pod]:
        return [pod for pod in self.pods if pod.process is not None and pod.process.poll() is None]

    def _container(self, pod: Pod) -> Any:
        return self.jobs[pod.job]["spec"]["template"]["spec"]["containers"][0]

    def _why_not(self, pod: Pod) -> dict[str, str] | None:
        """What keeps its container from being made."""
        container = self._container(pod)
        if container["image"] != IMAGE:
            return {"reason": "ImagePullBackOff", "message": f"no image {container['image']}"}
        for variable in container["env"]:
            named = variable.get("valueFrom", {}).get("secretKeyRef")
            if named is not None and named["key"] not in self.secrets.get(named["name"], {}):
                words = f"secret {named['name']!r} not found"
                return {"reason": "CreateContainerConfigError", "message": words}
        return None

    def _begin(self, pod: Pod) -> None:
        """Run what the container would, with files of its own where it has mounts."""
        spec, container = self.jobs[pod.job]["spec"]["template"]["spec"], self._container(pod)
        place = self.folder / pod.name
        place.mkdir(exist_ok=True)
        mounts = {mount["mountPath"]: place / mount["name"] for mount in container["volumeMounts"]}
        for volume in spec["volumes"]:
            if "secret" in volume:
                (place / volume["name"]).mkdir(exist_ok=True)
                for key, value in self.secrets[volume["secret"]["secretName"]].items():
                    (place / volume["name"] / key).write_text(value)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GOLF_STORAGE")}
        for variable in container["env"]:
            named = variable.get("valueFrom", {}).get("secretKeyRef")
            environment[variable["name"]] = (
                self.secrets[named["name"]][named["key"]] if named
                else _mounted(variable["value"], mounts)
            )  # fmt: skip
        arguments = [_mounted(word, mounts) for word in container["args"]]
        with (self.folder / f"{pod.name}.log").open("wb") as log:
            pod.process = subprocess.Popen(
                [sys.executable, "-m", "golf_opt", *arguments], cwd=place, env=environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    # --- what the API says of it

    def shown(self, pod: Pod) -> dict[str, Any]:
        job = self.jobs.get(pod.job)
        state: dict[str, Any] = {"waiting": {"reason": "ContainerCreating"}}
        conditions, phase = [], "Pending"
        if pod.ended:
            state, phase = {"terminated": {"exitCode": 0}}, "Succeeded"
        elif pod.process is not None and pod.process.poll() is None:
            state, phase = {"running": {}}, "Running"
        elif job is not None and (why := self._why_not(pod)) is not None:
            state = {"waiting": why}
        elif pod.said:
            state = {"waiting": {"reason": "CrashLoopBackOff"}}
        elif len(self.running()) >= self.places:
            words = "0/1 nodes are available: 1 Insufficient cpu."
            conditions = [{"type": "PodScheduled", "status": "False", "message": words}]
        last = {"terminated": {"exitCode": 1, "message": pod.said}} if pod.said else {}
        container = {
            "name": "golf-opt", "image": IMAGE, "imageID": "", "ready": False, "restartCount": 0,
            "state": state, "lastState": last,
        }  # fmt: skip
        labels = {"batch.kubernetes.io/job-name": pod.job}
        return {
            "metadata": {"name": pod.name, "labels": labels},
            "status": {
                "phase": phase, "conditions": conditions,
                "containerStatuses": [] if conditions else [container],
            },
        }  # fmt: skip

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        """Return status and body."""
        import kubernetes_validate

        jobs, pods = JOBS.fullmatch(path), PODS.fullmatch(path)
        self.control()
        if method == "GET" and (jobs or pods):
            here = (jobs or pods)[1] == NAMESPACE  # another one's list is empty, there or not
            _, _, label = query["labelSelector"].partition("=")
            chosen = [j for j in self.jobs.values() if j["metadata"]["labels"]["study"] == label]
            if pods:
                names = {job["metadata"]["name"] for job in chosen}
                found = [p for p in self.pods if p.job in names or p.deleted]
                chosen = [self.shown(pod) for pod in found]
            return 200, {"items": chosen if here else []}
        if jobs and jobs[1] != NAMESPACE:
            return 404, f'namespaces "{jobs[1]}" not found'
        if method == "POST" and jobs:
            assert query["fieldValidation"] == "Strict"
            kubernetes_validate.validate(body, "1.30", strict=True)
            return 201, self.create(body)
        if method == "DELETE" and jobs and jobs[2] in self.jobs:
            assert query["propagationPolicy"] == "Background"  # else its pods would go on
            self.delete(jobs[2])
            return 200, {"status": "Success"}
        return 404, f"there is no {path}"


def _mounted(word: str, mounts: dict[str, Path]) -> str:
    paths = "|".join(map(re.escape, mounts))
    return re.sub(rf"(?<![\w/])({paths})(?!\w)", lambda found: str(mounts[found[1]]), word)


@contextlib.contextmanager
def started(cluster: Cluster) -> Iterator[Cluster]:
    """Serve a cluster on 127.0.0.1 for a block; its processes end with it."""

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            status = USERS.get(self.headers.get("Authorization", ""), 401)
            said: Any = f"{parts.path.rpartition('/')[2]} is not for you"
            if status == 200:
                with cluster.lock:
                    cluster.bodies.append(text)
                    body = json.loads(text) if text else None
                    status, said = cluster.answer(self.command, parts.path, query, body)
            if isinstance(said, str):
                said = {"kind": "Status", "status": "Failure", "message": said, "code": status}
            answer = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_DELETE = _do

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        cluster.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield cluster
        finally:
            server.shutdown()
            for pod in cluster.pods:
                if pod.process is not None and pod.process.poll() is None:
                    pod.process.kill()
                    pod.process.wait()


@pytest.fixture
def kubernetes(
    tmp_path: Path, on_postgres: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    """A cluster whose pods reach the database; the kubeconfig leads to it."""
    pytest.importorskip("kubernetes")
    assert on_postgres.url is not None
    secrets = {"golf-storage": {"url": on_postgres.url, "password": f"{PASSWORD}\n"}}
    monkeypatch.setenv("GOLF_STORAGE_URL", on_postgres.url)
    (tmp_path / "kube").mkdir()
    with started(Cluster(tmp_path / "kube", secrets)) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig()))
        yield cluster
