"""Workers as the pods of Indexed Jobs on Kubernetes, which starts them again where they are lost.

Jobs are known by a label, so that any command may look at them or end them. The cluster is told
nothing of trials, and nothing secret passes through here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from golf_opt.config.errors import UsageError
from golf_opt.config.on import KubernetesConfig
from golf_opt.fleet.base import Tally, Unreachable, complaint
from golf_opt.fleet.manifest import check_packages, cluster_name, job
from golf_opt.utils.text import one_line

ANSWER_S = (5.0, 30.0)  # that the API may take to connect, and to answer
STARTING = (None, "ContainerCreating", "PodInitializing")
GONE = 404


class Kubernetes:
    """The Jobs of one study.

    Args:
        config: where the cluster is, and what each pod asks for.
        name: that no other study's Jobs have.
        arguments: of golf-opt, for a worker.

    Raises:
        UsageError: the client is missing, or knows no cluster.
    """

    stays = True

    def __init__(self, config: KubernetesConfig, name: str, arguments: Sequence[str]) -> None:
        check_packages()
        self._config, self._arguments, self._label = config, arguments, cluster_name(name)
        job(config, self._label, arguments, 1)  # so that it is refused before anything is asked
        self._connect()

    def _connect(self) -> None:
        import yaml
        from kubernetes import client, config

        kubeconfig: Any = config  # it has no types
        path, made = os.environ.get("KUBECONFIG") or "~/.kube/config", client.Configuration()
        made.retries = False  # a fleet asks again, a moment later
        try:
            kubeconfig.load_kube_config(path, self._config.context, made)
            contexts, active = kubeconfig.list_kube_config_contexts(path)
        except (kubeconfig.ConfigException, yaml.YAMLError, OSError, ValueError) as error:
            raise UsageError(
                f"the kubeconfig {path} leads to no cluster: {one_line(str(error), 200)}; "
                "kubectl get jobs has to work first."
            ) from error
        chosen = {context["name"]: context["context"] for context in contexts}
        context = chosen[self._config.context or active["name"]]
        self._namespace = self._config.namespace or context.get("namespace") or "default"
        self._host, api = made.host, client.ApiClient(made)
        self._jobs, self._pods = client.BatchV1Api(api), client.CoreV1Api(api)

    def start(self, count: int) -> None:
        body = job(self._config, self._label, self._arguments, count)
        try:
            self._ask(self._jobs.create_namespaced_job, body=body, field_validation="Strict")
        except Unreachable as error:
            raise UsageError(f"Kubernetes takes no workers: {error}") from error

    def tally(self) -> Tally:
        jobs = self._unfinished()
        wanted = sum(each.spec.completions - (each.status.succeeded or 0) for each in jobs)
        pods = self._all_pods()
        running = sum(map(_is_running, pods))
        queued = max(0, wanted - running)
        words = filter(None, (_what_keeps(pod) for pod in pods if not _is_running(pod)))
        return Tally(queued, running, next(words, "") if queued else "")

    def stop(self, queued: bool = False) -> None:
        """End the Jobs, or those without a worker that runs."""
        at_work = {_job_of(pod) for pod in self._all_pods() if _is_running(pod)}
        for name in [unfinished.metadata.name for unfinished in self._unfinished()]:
            if queued and name in at_work:
                continue
            self._ask(
                self._jobs.delete_namespaced_job, name=name,
                propagation_policy="Background",  # its pods go too, by SIGTERM
            )  # fmt: skip

    def last_words(self) -> str:
        said = [words for pod in self._all_pods() if (words := _complaint_of(pod))]
        return said[-1] if said else "nothing"

    def _unfinished(self) -> list[Any]:
        """Return the Jobs that may start workers."""
        found = self._ask(self._jobs.list_namespaced_job, label_selector=f"study={self._label}")
        return [
            each for each in found.items
            if each.metadata.deletion_timestamp is None and not any(
                condition.status == "True" and condition.type in ("Complete", "Failed")
                for condition in each.status.conditions or ()
            )
        ]  # fmt: skip

    def _all_pods(self) -> list[Any]:
        found = self._ask(self._pods.list_namespaced_pod, label_selector=f"study={self._label}")
        return list(found.items)

    def _ask(self, what: Callable[..., Any], **arguments: Any) -> Any:
        """Return what the API answers; None where what is asked for is gone already.

        Raises:
            Unreachable: it does not answer, or does not allow it.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return what(namespace=self._namespace, _request_timeout=ANSWER_S, **arguments)
        except ApiException as error:
            if error.status == GONE and "name" in arguments:
                return None
            raise Unreachable(f"{self._host} answers {_words_of(error)}") from error
        except (HTTPError, OSError, ValueError) as error:
            raise Unreachable(f"{self._host}: {one_line(str(error), 200)}") from error


def _words_of(error: Any) -> str:
    """Return `403 Forbidden: jobs.batch is forbidden: ...`."""
    said = f"{error.status} {error.reason}"
    try:
        return f"{said}: {one_line(json.loads(error.body)['message'], 300)}"
    except (ValueError, TypeError, KeyError):
        return said


def _is_running(pod: Any) -> bool:
    return any(status.state.running for status in pod.status.container_statuses or ())


def _job_of(pod: Any) -> str | None:
    name: str | None = (pod.metadata.labels or {}).get("batch.kubernetes.io/job-name")
    return name


def _complaint_of(pod: Any) -> str:
    """Return how a pod's worker ended when it did last; empty where it has not."""
    for status in pod.status.container_statuses or ():
        for state in (status.state, status.last_state):
            if state is not None and state.terminated is not None and state.terminated.message:
                return complaint(state.terminated.message)
    return ""


def _what_keeps(pod: Any) -> str:
    """Return what keeps a pod from running, as far as the cluster says so."""
    if pod.status.phase in ("Succeeded", "Failed"):
        return ""
    if words := _complaint_of(pod):
        return words
    for status in pod.status.container_statuses or ():
        waiting = status.state.waiting
        if waiting is not None and waiting.reason not in STARTING:
            return one_line(": ".join(filter(None, (waiting.reason, waiting.message))), 120)
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return one_line(condition.message or "", 120)
    return ""
