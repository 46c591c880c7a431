"""golf-opt fleet on=kubernetes: the real client, and a server that speaks a little of the API.

Pods are processes here, which work on a real PostgreSQL; tests/kube.py says what is no cluster.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from conftest import ROOT, Ran, told
from serving import wait_for

from golf_opt.config.schema import StorageConfig
from golf_opt.engines.native import compiler
from tests import chaos, kube
from tests.fleets import Begun
from tests.postgres import PASSWORD, free_port

pytest_plugins = ["postgres", "fleets", "kube"]
pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler"),
]

Golf = Callable[..., Ran]
ON = ("on=kubernetes", "storage=postgres")
QUICK = ("data=digits", "engine=torch", "space.batch_size=32", "epochs=1", "trials=1")


def wait_for_pods(cluster: kube.Cluster, count: int) -> list[kube.Pod]:
    """Wait until so many run that are to go on, and return them."""

    def found() -> list[kube.Pod]:
        return [pod for pod in cluster.running() if not pod.deleted]

    wait_for(lambda: len(found()) == count)
    return found()


def test_kubernetes_loses_pods_and_jobs(
    kubernetes: kube.Cluster,
    left_study: Callable[[StorageConfig], Begun],
    on_postgres: StorageConfig,
    golf: Golf,
) -> None:
    """A pod's node breaks, a Job has failed too often; left, looked at, ended, begun, topped up."""
    study = left_study(on_postgres)
    study.slow_down()
    fleet = study.begin("on=kubernetes", "workers=2")
    study.wait_for_epochs(10)
    kubernetes.lose(wait_for_pods(kubernetes, 2)[0])
    study.wait_for_epochs(10)
    kubernetes.fail(next(iter(kubernetes.jobs)))
    wait_for(lambda: len(kubernetes.jobs) > 1)  # others are begun
    wait_for_pods(kubernetes, 2)
    study.wait_for_epochs(10)
    fleet.send_signal(signal.SIGINT)
    out, err = fleet.communicate(timeout=chaos.PATIENCE_S)
    assert (fleet.returncode, err) == (128 + signal.SIGINT, ""), out + err
    replaced = re.findall(r"(\d) workers? ended before the study did; replaced", out)
    assert sum(map(int, replaced)) == 2, out
    assert "2 workers go on; to look again: " in out

    looks = study.begin("on=kubernetes")
    assert looks.stdout is not None
    assert looks.stdout.readline() == "chaos: 2 workers on kubernetes\n"
    next(line for line in looks.stdout if line.startswith("2 running, 0 queued  "))
    looks.send_signal(signal.SIGINT)
    looks.communicate(timeout=chaos.PATIENCE_S)
    ended = golf("fleet", *study.words, "on=kubernetes", "stop=true")
    assert "2 workers ended; trials under way wait" in ended.out, ended
    assert kubernetes.running() == [] and study.pids() == []
    assert "has no workers on kubernetes" in told(golf("fleet", *study.words, "on=kubernetes"))

    kubernetes.places = 1
    study.begin("on=kubernetes", "workers=1")
    study.wait_for_epochs(1)
    assert study.fleet is not None
    study.fleet.send_signal(signal.SIGINT)
    study.fleet.communicate(timeout=chaos.PATIENCE_S)
    more = study.begin("on=kubernetes", "workers=2")
    assert more.stdout is not None
    why = "1 running, 1 queued (0/1 nodes are available: 1 Insufficient cpu.)"
    next(line for line in more.stdout if line.startswith(why))
    shapes = [job["spec"]["completions"] for job in kubernetes.jobs.values()]
    assert shapes == [2, 1, 1]  # the one that failed, and those of the last two commands
    kubernetes.places = 8
    study.ended()
    assert kubernetes.running() == []
    sent = "".join(kubernetes.bodies)
    assert "worker" in sent and PASSWORD not in sent and str(on_postgres.url) not in sent


def test_what_is_wrong_is_told(
    kubernetes: kube.Cluster,
    golf: Golf,
    golf_process: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is typed in one line, before anything is made; what the cluster says on the screen."""
    study = ("study", *QUICK, "study.name=fleet", "workers=1")
    begun = golf(*study, *ON, "on.context=nowhere")
    assert "new study, 1 trial" in begun.out and "nowhere" in begun.err, begun
    fleet = ("fleet", "study=fleet", *ON, "workers=2")
    for kubeconfig, arguments, message in (
        (kubernetes.folder / "absent", (), "absent leads to no cluster: "),
        (kubernetes.folder / "empty", (), "empty leads to no cluster: "),
        (kubernetes.kubeconfig("nobody"), (), "answers 401 Unauthorized: jobs is not for you"),
        (kubernetes.kubeconfig("caddie"), (), "answers 403 Forbidden: jobs is not for you"),
        (kubernetes.kubeconfig(namespace="no"), (), 'answers 404 Not Found: namespaces "no" not'),
        (kubernetes.kubeconfig(port=free_port()), (), "Connection refused"),
        (None, ("on.namespace=no",), "takes no workers: http://127.0.0.1:"),
        (None, ("+on.pod.nodeSelectr={a: b}",), "on.pod is no PodSpec of Kubernetes 1.30: "),
        (None, ("+on.pod.priority=high",), "on.pod.priority is no PodSpec of Kubernetes 1.30: 'h"),
        (None, ("on.memory=4G",), "on.memory is '4G', but must be a size such as 500Mi or 4Gi"),
        (None, ("+on.cpu=4",), "on.cpu is not a key; it must be one of claim, "),
    ):
        (kubernetes.folder / "empty").touch()
        with monkeypatch.context() as patch:
            if kubeconfig is not None:
                patch.setenv("KUBECONFIG", str(kubeconfig))
            ran = golf(*fleet, *arguments)
            assert message in ran.err and ran.status == 2, (arguments, ran)
            assert ran.err.count("\n") == 1 and "Traceback" not in ran.err
    assert golf(*study[:-1], "study.name=mine").status == 0
    assert "is in a file of this machine" in told(
        golf("fleet", "study=mine", "on=kubernetes", "workers=1")
    )
    assert kubernetes.jobs == {}

    def screen_has(words: str, *arguments: str) -> None:
        process = golf_process(*fleet, *arguments)
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if words in line:
                break
        else:
            raise AssertionError((seen, process.communicate()))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=chaos.PATIENCE_S)
        assert "2 workers ended" in golf("fleet", "study=fleet", *ON, "stop=true").out
        assert kubernetes.jobs == {}

    screen_has("0 running, 2 queued (ImagePullBackOff: no image x/golf)", "on.image=x/golf")
    screen_has("(CreateContainerConfigError: secret 'other' not found)", "on.secret=other")
    kubernetes.secrets["golf-storage"]["password"] = "wrong"
    screen_has("queued (golf-opt: storage postgresql", "on.claim=null")


def test_a_dry_run_prints_the_job_of_docker(kubernetes: kube.Cluster, golf: Golf) -> None:
    """It asks no cluster; +on.pod adds to the pod, and GPUs are limits."""
    begun = golf("study", *QUICK, "study.name=fleet", "storage=postgres")
    assert begun.status == 0, begun
    asked = len(kubernetes.bodies)

    def dry(*arguments: str) -> Any:
        ran = golf("fleet", "study=fleet", *ON, "on.dry_run=true", *arguments)
        assert (ran.status, ran.err) == (0, ""), ran
        made = yaml.safe_load(ran.out)
        labels = made["spec"]["template"]["metadata"]["labels"]
        assert labels == made["metadata"]["labels"]
        assert made["metadata"]["generateName"] == f"{labels.pop('study')}-"
        return made["spec"]

    documents = yaml.safe_load_all((ROOT / "docker" / "kubernetes.yaml").read_text())
    (workers,) = [d for d in documents if d["metadata"]["name"] == "golf-workers"]
    assert dry("workers=8", "on.cpus=2") == workers["spec"]
    pod = dry(
        "on.gpus=2", "on.claim=null", "engine.lanes=3", "+on.pod.nodeSelector={pool: gpu}",
        "data=digits", "dir=studies",
    )["template"]["spec"]  # fmt: skip
    (container,) = pod["containers"]
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert container["resources"]["limits"] == {"memory": "4Gi", "nvidia.com/gpu": "2"}
    assert container["args"] == [
        "worker", "study=fleet", "storage=postgres", "dir=/studies", "engine.lanes=3",
        "data=digits",
    ]  # fmt: skip
    assert "mnist" not in {volume["name"] for volume in pod["volumes"]}
    assert len(kubernetes.bodies) == asked
