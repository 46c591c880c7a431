"""The Job of a fleet on Kubernetes, as docker/kubernetes.yaml has it for those without a fleet."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from typing import Any

import yaml

from golf_opt.config.errors import UsageError
from golf_opt.config.on import KubernetesConfig
from golf_opt.utils.text import one_line

OLDEST = "1.30"  # of the API, whose schema a Job is checked against
RESTARTS = 10  # of a worker that fails, on average over all of a Job
KEPT_S = 86_400  # that an ended Job, and with it the workers' logs, can be looked at
STUDIES, SECRET, PASSWORD = "/studies", "/run/secrets/golf", "password"
INSTEAD = ("storage=postgres", f"dir={STUDIES}")  # whatever these are where the fleet is begun


def job(config: KubernetesConfig, label: str, arguments: Sequence[str], count: int) -> Any:
    """Return an Indexed Job of so many workers.

    No URL or password is in it: pods have them from a Secret.

    Args:
        config: what each pod asks for.
        label: of Job and pods; no other study's have it.
        arguments: of golf-opt, which is the image's entry point.
        count: of workers.

    Raises:
        UsageError: the API would refuse it.
    """
    labels = {"app": "golf-opt", "part": "worker"}
    made = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": f"{label}-", "labels": labels | {"study": label}},
        "spec": {
            "completionMode": "Indexed",
            "completions": count,
            "parallelism": count,
            "backoffLimit": RESTARTS * count,
            "ttlSecondsAfterFinished": KEPT_S,
            "template": {
                "metadata": {"labels": labels | {"study": label}},
                "spec": _pod(config, arguments) | config.pod,
            },
        },
    }
    check_by_schema(made)
    return made


def _pod(config: KubernetesConfig, arguments: Sequence[str]) -> dict[str, Any]:
    limits = {"memory": config.memory}
    limits |= {"nvidia.com/gpu": str(config.gpus)} if config.gpus else {}
    writable = {"studies": STUDIES, "cache": "/cache", "scratch": "/tmp"}
    mounts = [{"name": "password", "mountPath": SECRET, "readOnly": True}]
    volumes: list[dict[str, Any]] = [{"name": "password", "secret": {"secretName": config.secret}}]
    if config.claim is not None:
        claim = {"claimName": config.claim, "readOnly": True}
        mounts.append({"name": "mnist", "mountPath": "/data", "readOnly": True})
        volumes.append({"name": "mnist", "persistentVolumeClaim": claim})
    mounts += [{"name": name, "mountPath": path} for name, path in writable.items()]
    volumes += [{"name": name, "emptyDir": {}} for name in writable]
    url = {"secretKeyRef": {"name": config.secret, "key": "url"}}
    return {
        "restartPolicy": "OnFailure",
        "terminationGracePeriodSeconds": 30,  # SIGTERM: trials in flight are checkpointed
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{
            "name": "golf-opt",
            "image": config.image,
            "args": list(arguments),
            "env": [
                {"name": "GOLF_STORAGE_URL", "valueFrom": url},
                {"name": "GOLF_STORAGE_PASSWORD_FILE", "value": f"{SECRET}/{PASSWORD}"},
            ],
            "resources": {
                "requests": {"cpu": str(config.cpus), "memory": config.memory}, "limits": limits,
            },
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "terminationMessagePolicy": "FallbackToLogsOnError",  # what it complained of
            "volumeMounts": mounts,
        }],
        "volumes": volumes,
    }  # fmt: skip


def check_by_schema(made: dict[str, Any]) -> None:
    """Refuse what the API's schema does not know.

    Raises:
        UsageError: a field that there is not, or that is of another type.
    """
    import kubernetes_validate

    try:
        kubernetes_validate.validate(made, OLDEST, strict=True)
    except kubernetes_validate.ValidationError as error:
        place = ".".join(map(str, error.path)).removeprefix("spec.template.spec")
        raise UsageError(
            f"on.pod{place} is no PodSpec of Kubernetes {OLDEST}: {one_line(error.message, 200)}"
        ) from error


def in_yaml(made: Any) -> str:
    text: str = yaml.safe_dump(made, sort_keys=False)
    return text.rstrip("\n")


def cluster_name(study: str) -> str:
    """Return a name of a study's as a label and the beginning of a host's name."""
    words, _, id_ = re.sub(r"[^a-z0-9]+", "-", study.lower()).rpartition("-")
    return f"{words[:32].strip('-')}-{id_}"


def check_packages() -> None:
    """Refuse to go on without the packages of the extra."""
    for name in ("kubernetes", "kubernetes_validate"):
        if importlib.util.find_spec(name) is None:
            raise UsageError(
                f"on=kubernetes needs the package {name}, which is not installed: "
                "pip install 'golf-opt[kubernetes]'"
            )
