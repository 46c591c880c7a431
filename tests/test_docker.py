"""docker/: files that their schemas accept, and commands that run outside of a container too."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from conftest import ROOT, Ran

from golf_opt.cli import main as cli
from golf_opt.storage.url import PASSWORD_ENV, PASSWORD_FILE_ENV, take_password

if TYPE_CHECKING:
    from postgres import Server

pytest_plugins = ["postgres"]

DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
KUBERNETES = list(yaml.safe_load_all((DOCKER / "kubernetes.yaml").read_text()))
README = (DOCKER / "README.md").read_text()
COMMANDS = [line[2:] for line in README.splitlines() if line.startswith("$ ")]
QUICK = ("data=digits", "engine=torch", "trials=1", "epochs=1", "space.batch_size=32")
Golf = Callable[..., Ran]

needs_worker = pytest.mark.skipif("worker" not in cli.VERBS, reason="there is no verb worker yet")


# --- what schemas and linters say


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed; it comes with golf-opt[dev]")
    return found


@pytest.mark.parametrize(
    "command",
    [
        ["hadolint", "Dockerfile"],
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"],
    ],
    ids=lambda command: command[0],
)
def test_linters_and_the_compose_specification_have_no_complaint(command: list[str]) -> None:
    ran = subprocess.run(
        [tool(command[0]), *command[1:]], cwd=DOCKER, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("document", KUBERNETES, ids=lambda d: d["metadata"]["name"])
def test_kubernetes_accepts(document: dict[str, Any]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(document, "1.30", strict=True)


# --- what only we can know


def services() -> dict[str, list[str]]:
    return {
        name: [interpolated(word) for word in service["command"]]
        for name, service in COMPOSE["services"].items()
        if "command" in service
    }


def interpolated(text: str) -> str:
    """Compose's ${NAME:-default}."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: os.environ.get(m[1]) or m[2], text)


def pods() -> dict[str, dict[str, Any]]:
    return {
        d["metadata"]["name"]: d["spec"]["template"]["spec"]
        for d in KUBERNETES
        if "template" in d.get("spec", {})
    }


def test_what_the_builder_copies_is_there_and_not_ignored() -> None:
    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for name in line.split()[:-1]
    ]
    rules = [line for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"]
    assert {"conf", "golf_opt", "pyproject.toml", "constraints.txt"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists()
        assert any(fnmatch.fnmatch(name, rule[1:]) for rule in rules), name


def test_the_image_runs_without_rights_and_with_a_compiler() -> None:
    last = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    assert re.search(r"^USER 1000$", last, re.MULTILINE)
    assert "useradd --uid 1000" in DOCKERFILE and "g++" in DOCKERFILE
    assert last.index("USER 1000") < last.index("ENTRYPOINT")


def test_the_wheel_of_what_the_builder_copies_runs(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    stage = DOCKERFILE.split("AS wheel")[1].split("\nFROM ")[0]
    for line in re.findall(r"^COPY (.*)$", stage, re.MULTILINE):
        for name in line.split()[:-1]:
            source = ROOT / name
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, tmp_path / "src" / name, ignore=ignore)
            else:
                (tmp_path / "src").mkdir(exist_ok=True)
                shutil.copy(source, tmp_path / "src")
    (command,) = re.findall(r"^RUN pip (wheel .*)$", stage, re.MULTILINE)
    arguments = shlex.split(command.replace("/wheels", str(tmp_path / "wheels")))
    subprocess.run(
        [sys.executable, "-m", "pip", *arguments, "--no-build-isolation", "--quiet"],
        cwd=tmp_path / "src", check=True,
    )  # fmt: skip
    (wheel,) = (tmp_path / "wheels").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    ran = subprocess.run(
        [sys.executable, "-m", "golf_opt", "arch", "c4-5-4", "deepml-small"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [line.split()[-1] for line in ran.stdout.splitlines() if "total" in line] == [
        "807", "1,418",
    ]  # fmt: skip


def test_no_password_is_written_down() -> None:
    for path in DOCKER.iterdir():
        if path.is_file():
            assert re.findall(r"://\w+:[^@\s]+@", path.read_text()) == []
    secret = COMPOSE["secrets"]["postgres_password"]["file"]
    assert secret == "./secrets/postgres_password"
    ignored = subprocess.run(["git", "check-ignore", f"docker/{secret[2:]}"], cwd=ROOT)
    assert ignored.returncode in (0, 128)  # 128: not in git
    for service in ("postgres", "dashboard", "study", "worker", "worker-gpu"):
        assert COMPOSE["services"][service]["secrets"] == ["postgres_password"]
    for pod in pods().values():
        (volume,) = [v for v in pod["volumes"] if v["name"] == "password"]
        assert volume["secret"]["secretName"] == "golf-storage"


def test_ports_are_published_to_this_machine_only() -> None:
    ports = [p for s in COMPOSE["services"].values() for p in s.get("ports", [])]
    assert [port.split(":")[0] for port in ports] == ["127.0.0.1"]


def test_folders_of_the_commands_are_mounted() -> None:
    """dir=, $GOLF_DATA, the cache and the password's file lie where something is mounted."""
    password = "/run/secrets/golf/password"
    for pod in pods().values():
        (container,) = pod["containers"]
        url, file = container["env"][:2]
        secret = {"secretKeyRef": {"name": "golf-storage", "key": "url"}}
        assert url == {"name": "GOLF_STORAGE_URL", "valueFrom": secret}
        assert file == {"name": PASSWORD_FILE_ENV, "value": password}
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/studies", "/data", "/cache"} <= mounted
        assert str(Path(password).parent) in mounted
        names = {mount["name"] for mount in container["volumeMounts"]}
        assert names == {volume["name"] for volume in pod["volumes"]}
    for name in services():
        service = COMPOSE["services"][name]
        targets = {volume.split(":")[-2 if volume.endswith(":ro") else -1] for volume in (
            interpolated(volume) for volume in service["volumes"]
        )}  # fmt: skip
        assert targets == {"/studies", "/data"}
        environment = service["environment"]
        assert environment[PASSWORD_FILE_ENV] == "/run/secrets/postgres_password"
        (made,) = re.findall(r"create secret generic golf-storage (.*)", README)
        assert f"--from-literal=url={environment['GOLF_STORAGE_URL']}" in made.split()


def test_workers_are_started_again_and_the_gpu_is_a_profile() -> None:
    assert COMPOSE["services"]["worker"]["restart"] == "on-failure"
    gpu = COMPOSE["services"]["worker-gpu"]
    assert gpu["profiles"] == ["gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    (job,) = [d for d in KUBERNETES if d["metadata"]["name"] == "golf-workers"]
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 8
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure"


# --- the commands of the containers, run here


@pytest.fixture
def outside(
    tmp_path: Path, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """The containers' environment, with a server, a folder and a password file that exist here."""
    url, password = take_password(postgres.url(postgres.create_database()))
    (tmp_path / "password").write_text(f"{password}\n")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "golf-opt"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m golf_opt "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv(PASSWORD_ENV, "")
    monkeypatch.setenv("GOLF_STORAGE_URL", url)
    monkeypatch.setenv(PASSWORD_FILE_ENV, str(tmp_path / "password"))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield {"/studies": str(tmp_path / "studies")}


def arguments_of(command: list[str], outside: dict[str, str]) -> list[str]:
    return [word.replace("/studies", outside["/studies"]) for word in command]


COMMANDS_OF = {f"compose {name}": command for name, command in services().items()} | {
    f"kubernetes {name}": pod["containers"][0]["args"] for name, pod in pods().items()
}


@pytest.mark.postgres
@pytest.mark.parametrize(
    "command", [c for c in COMMANDS_OF if c in ("compose study", "kubernetes golf-study")]
)
def test_the_study_runs(golf: Golf, outside: dict[str, str], tmp_path: Path, command: str) -> None:
    ran = golf(*arguments_of(COMMANDS_OF[command], outside), *QUICK)
    assert (ran.status, ran.err) == (0, "")
    assert "study fleet: 1 of 1 trial finished" in ran.out
    (row,) = json.loads(golf("ls", "storage=postgres", "format=json").out)
    assert (row["study"], row["trials"]["complete"]) == ("fleet", 1)
    assert not list(tmp_path.rglob("golf.db"))


@pytest.mark.parametrize("command", COMMANDS_OF)
def test_every_command_composes(golf: Golf, command: str) -> None:
    if COMMANDS_OF[command][0] not in cli.VERBS:
        pytest.skip(f"there is no verb {COMMANDS_OF[command][0]} yet")
    ran = golf(*COMMANDS_OF[command], "--cfg", "job")
    assert (ran.status, ran.err) == (0, "")
    assert "url_env: GOLF_STORAGE_URL" in ran.out and "dir: /studies" in ran.out


@pytest.mark.postgres
def test_the_dashboard_is_healthy_and_then_it_is_not(outside: dict[str, str]) -> None:
    service = COMPOSE["services"]["dashboard"]
    command = [*arguments_of(services()["dashboard"], outside), "dashboard.port=0"]
    environment = os.environ | {"GOLF_DASHBOARD_PASSWORD": "eighteen holes of golf"}
    process = subprocess.Popen(
        ["golf-opt", *command], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    port = None
    while port is None:  # a warning may come first
        port = re.search(r"http://[\d.]+:(\d+)", process.stdout.readline())
    check = [sys.executable, *service["healthcheck"]["test"][2:]]
    check = [word.replace("8080", port[1]) for word in check]
    assert subprocess.run(check, timeout=120).returncode == 0
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert subprocess.run(check, timeout=120, capture_output=True).returncode == 1


@pytest.mark.postgres
def test_the_image_is_healthy_while_the_storage_answers(
    outside: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (words,) = re.findall(r"^    CMD (\[\"sh\".*\])$", DOCKERFILE, re.MULTILINE)
    check = arguments_of(json.loads(words), outside)
    assert subprocess.run(check).returncode == 0
    monkeypatch.setenv("GOLF_STORAGE_URL", "postgresql://golf@127.0.0.1:1/golf")
    ran = subprocess.run(check, capture_output=True, text=True)
    assert ran.returncode == 2 and "cannot be used" in ran.stderr
    monkeypatch.setenv("GOLF_STORAGE_URL", "")
    assert subprocess.run(check).returncode == 0  # SQLite, with no study yet


@needs_worker
@pytest.mark.postgres
def test_workers_of_compose_join_the_study(golf: Golf, outside: dict[str, str]) -> None:
    assert golf(*arguments_of(services()["study"], outside), *QUICK).status == 0
    words = ["golf-opt", *arguments_of(services()["worker"], outside)]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    (row,) = json.loads(golf("ls", "storage=postgres", "format=json").out)
    assert row["trials"]["complete"] == 1  # it has its total; they leave


# --- docker/README.md


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("golf-opt ")])
def test_golf_opt_commands_of_the_readme_compose(golf: Golf, command: str) -> None:
    arguments = shlex.split(command)[1:]
    if arguments[0] not in cli.VERBS:
        pytest.skip(f"there is no verb {arguments[0]} yet")
    assert golf(*arguments, "--cfg", "job").status == 0


def test_commands_of_the_readme_name_what_there_is() -> None:
    heads = ("export", "golf-opt", "docker", "kubectl", "mkdir", "openssl", "echo",
             "chmod", "TRIALS=200")  # fmt: skip
    assert [c for c in COMMANDS if not c.startswith(heads)] == []
    for command in COMMANDS:
        subprocess.run(["bash", "-n", "-c", command], check=True)
        for path in re.findall(r"(?<!\S)docker/[\w.]+", command):
            assert (ROOT / path).exists() or path == "docker/secrets", command
        for name in re.findall(r"--scale (\w+)=|run --rm (study)\b", command):
            assert (name[0] or name[1]) in COMPOSE["services"]
        if "logs --follow study worker" in command:
            assert {"study", "worker"} <= set(COMPOSE["services"])
        for kind, name in re.findall(r"(job|service)/([\w-]+)", command):
            assert (kind, name) in {
                (d["kind"].lower(), d["metadata"]["name"]) for d in KUBERNETES
            }, command
    secrets = {
        v["secret"]["secretName"]
        for pod in pods().values()
        for v in pod["volumes"]
        if "secret" in v
    }
    made = set(re.findall(r"create secret generic ([\w-]+)", README))
    assert secrets <= made and "golf-dashboard" in made


def test_figures_of_the_readme_are_the_ones_measured() -> None:
    (results,) = (ROOT / "bench" / "results").glob("*/fleet.json")
    measured = json.loads(results.read_text())["rows"]
    shown = {
        int(cells[0]): cells[1:]
        for line in README.splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 4
        and cells[0].isdigit()
    }
    for row in measured:
        column = ("golf", "optuna", "grpc").index(row["way"])
        figures = f"{row['trials_per_s']:.0f}/s, {row['connections']} connections"
        assert shown[row["processes"]][column] == figures
        assert (row["lost"], row["failed_processes"]) == (0, 0)
