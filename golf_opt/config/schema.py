"""The configuration: what Hydra composed becomes frozen dataclasses here, once, and is checked.

Nothing below this module sees a DictConfig. A user's mistake is a `UsageError`, whose message has
the form `<name> is <value>, but must be <constraint>; <choices or the fix>`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

PROTOCOLS = ("test", "holdout")
DATASETS = ("auto", "mnist", "fashion", "digits")
ENGINES = ("auto", "native", "torch", "cuda")
LIST_FORMATS = ("auto", "table", "plain", "json")
BOARDS = ("article", "holdout", "99")
REPRODUCE_PARTS = ("quick", "full", "tables")  # tables: write the page, train nothing
DEPLOY_FORMATS = ("c", "onnx", "safetensors")
DEFAULT_EPOCHS = 18
PRUNE_METHODS = ("index", "magnitude", "saliency", "rounds")
SCOPES = ("weights", "all")
SALIENCY_ORDERS = ("first", "second")
DASHBOARD_KEYS = ("host", "port", "write", "password_env", "password_file", "trusted_proxy")


class UsageError(ValueError):
    """A user's mistake; the message says what was given, what is allowed, and the fix."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return `; did you mean 'tpe'?` for a near match, then the choices."""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"one of {', '.join(known)}{hint}"


def check_choice(name: str, value: object, choices: Iterable[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise UsageError(f"{name} is {value!r}, but must be {did_you_mean(str(value), choices)}")
    return value


def check_int(name: str, value: object, low: int, high: int | None = None) -> int:
    top = "" if high is None else f" and at most {high}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{name} is {value!r}, but must be a whole number of at least {low}{top}.")
    if value < low or (high is not None and value > high):
        raise UsageError(f"{name} is {value}, but must be at least {low}{top}.")
    return value


def check_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{name} is {value!r}, but must be true or false.")
    return value


def check_share(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise UsageError(f"{name} is {value!r}, but must be a share above 0 and below 1.")
    return float(value)


def check_keys(name: str, node: Mapping[str, Any], allowed: Iterable[str]) -> None:
    known = list(allowed)
    for key in node:
        if key not in known:
            raise UsageError(
                f"{name}.{key} is not a key; it must be {did_you_mean(str(key), known)}"
            )


@dataclass(frozen=True)
class DataConfig:
    name: str
    root: Path


@dataclass(frozen=True)
class EngineConfig:
    name: str
    device: str
    lanes: int | None  # None: as many as the engine finds useful
    threads: int


@dataclass(frozen=True)
class StorageConfig:
    url: str | None  # without its password; None: in memory, gone when the process ends
    url_env: str | None  # the environment variable that holds the URL instead


@dataclass(frozen=True)
class StudyConfig:
    """One run of `golf-opt study`, checked as far as that goes without reading data."""

    name: str | None
    folder: Path
    enqueue: tuple[Mapping[str, Any], ...]
    trials: int
    epochs: int
    seed: int
    protocol: str
    arch: Mapping[str, Any]
    space: Mapping[str, Any]
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any]
    callbacks: Mapping[str, Any]
    storage: StorageConfig
    data: DataConfig
    engine: EngineConfig


@dataclass(frozen=True)
class WorkerConfig:
    """One run of `golf-opt worker`; the rest is kept with the study."""

    study: str
    folder: Path
    data_root: Path
    callbacks: Mapping[str, Any]
    storage: StorageConfig
    engine: EngineConfig


@dataclass(frozen=True)
class DashboardConfig:
    folder: Path
    host: str
    port: int
    write: bool
    password_env: str  # the environment variable that holds the password
    password_file: Path | None
    trusted_proxy: str | None  # the address whose X-Forwarded-* headers count
    storage: StorageConfig
    data_root: Path


@dataclass(frozen=True)
class ReportConfig:
    study: str
    folder: Path
    storage: StorageConfig
    data_root: Path


@dataclass(frozen=True)
class CompareConfig:
    studies: tuple[str, ...]
    folder: Path
    storage: StorageConfig


@dataclass(frozen=True)
class ListConfig:
    format: str
    storage: StorageConfig


@dataclass(frozen=True)
class RemovalConfig:
    study: str
    folder: Path
    yes: bool  # do not ask
    force: bool  # whatever programs other than ours seem to run
    artifacts: bool  # remove pictures too
    storage: StorageConfig


@dataclass(frozen=True)
class ExportConfig:
    study: str
    folder: Path
    output: Path  # does not exist yet
    checkpoints: bool
    storage: StorageConfig


@dataclass(frozen=True)
class ImportConfig:
    input: Path
    name: str | None  # None: as it was
    folder: Path
    storage: StorageConfig


@dataclass(frozen=True)
class ConfirmConfig:
    """One run of `golf-opt confirm`."""

    study: str
    folder: Path
    top: int  # trials, the best first
    seeds: int  # for each
    target: float  # accuracy in [0, 1]
    storage: StorageConfig
    data: DataConfig
    engine: EngineConfig


@dataclass(frozen=True)
class RecordConfig:
    """One run of `golf-opt record`: a study's trial, or what pruning made of one."""

    study: str | None
    trial: str | int
    source: Path | None  # a folder that pruning wrote
    board: str
    slug: str
    how: str  # in a few words
    folder: Path  # of the studies
    storage: StorageConfig
    data: DataConfig


@dataclass(frozen=True)
class VerifyConfig:
    """One run of `golf-opt verify`."""

    path: Path  # one record, or a folder of records
    data: DataConfig


@dataclass(frozen=True)
class ReproduceConfig:
    """One run of `golf-opt reproduce`; trainings and rows are checked where they are used."""

    part: str
    folder: Path  # results.json, README.md and figures/
    introduction: str
    tables: Mapping[str, str]  # key -> title
    trainings: Mapping[str, Mapping[str, Any]]
    rows: tuple[Mapping[str, Any], ...]
    about_pruning: str
    prunings: Mapping[str, Mapping[str, Any]]
    pruned_rows: tuple[Mapping[str, Any], ...]
    curves: Mapping[str, Mapping[str, Any]]
    findings: tuple[str, ...]
    data: DataConfig
    engine: EngineConfig


@dataclass(frozen=True)
class SourceConfig:
    """The trained net that a verb works on: a trial of a study, or a file of weights."""

    study: str | None
    trial: str | int  # `best` or a number
    weights: Path | None
    arch: Mapping[str, Any] | None  # of `weights`


@dataclass(frozen=True)
class DeployConfig:
    source: SourceConfig
    folder: Path
    storage: StorageConfig
    format: str
    output: Path | None  # None: in the folder, named after the net


@dataclass(frozen=True)
class InterpretConfig:
    source: SourceConfig
    folder: Path
    storage: StorageConfig
    data: DataConfig
    protocol: str | None  # which images to look at; None: the study's
    steps: int  # of gradient ascent


@dataclass(frozen=True)
class RoundOptions:
    """How `method=rounds` goes about it: see `golf.rounds`."""

    share: float = 0.04  # of the survivors, removed in a round; halved where no variant succeeds
    epochs: int = 6  # of fine-tuning in a round
    variants: int = 6  # other choices of what to remove, side by side in all lanes
    patience: int = 4  # rounds without success before the share is halved
    lr: float = 2e-3  # of Adam at the start of each fine-tuning; cosine to zero
    batch_size: int = 32


@dataclass(frozen=True)
class PruneOptions:
    """What to prune, how far and by which rule."""

    method: str = "magnitude"
    target: float = 0.98  # accuracy on the guide that is kept
    rule: str = "test"  # the guide: the test set, or held-out training images
    scope: str = "all"  # `weights`: of convolutions and linear layers alone
    seed: int = 0
    order: str = "second"  # of `method=saliency`
    rounds: RoundOptions = RoundOptions()


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Resolve a DictConfig into plain dicts and lists; a missing value is a `UsageError`."""
    try:
        container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UsageError(str(error).splitlines()[0]) from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def study_config(cfg: DictConfig, conf_dir: Path) -> StudyConfig:
    """Check the composed configuration of the verb `study`."""
    node = plain(cfg)
    study = node["study"]
    return StudyConfig(
        name=_study_name(study["name"]),
        folder=_folder(node["dir"]),
        enqueue=_points(study["enqueue"], conf_dir / "points"),
        trials=check_int("trials", node["trials"], 1),
        epochs=check_int("epochs", node["epochs"], 1, 10_000),
        seed=check_int("seed", node["seed"], 0, 2**63 - 1),
        protocol=check_choice("protocol", node["protocol"], PROTOCOLS),
        arch=_group("arch", node["arch"]),
        space=_group("space", node["space"]),
        sampler=_group("sampler", node["sampler"]),
        pruner=_group("pruner", node["pruner"]),
        callbacks=node["callbacks"] or {},
        storage=_storage(node["storage"]),
        data=_data(node["data"]),
        engine=_engine(node["engine"]),
    )


def worker_config(cfg: DictConfig) -> WorkerConfig:
    """Check the composed configuration of the verb `worker`."""
    node = plain(cfg)
    return WorkerConfig(
        study=existing_study(node["study"]),
        folder=_folder(node["dir"]),
        data_root=Path(node["data"]["root"]),
        callbacks=node["callbacks"] or {},
        storage=_storage(node["storage"]),
        engine=_engine(node["engine"]),
    )


def existing_study(name: object) -> str:
    """Return the name of a study that must be given."""
    if name is None:
        raise UsageError("study is missing; give study=NAME, as `golf-opt ls` lists them.")
    return _study_name(name) or ""


def dashboard_config(cfg: DictConfig) -> DashboardConfig:
    """Check the composed configuration of the verb `dashboard`."""
    node = plain(cfg)
    board = node["dashboard"]
    check_keys("dashboard", board, DASHBOARD_KEYS)
    file, proxy = board["password_file"], board["trusted_proxy"]
    return DashboardConfig(
        folder=_folder(node["dir"]),
        host=str(board["host"]),
        port=check_int("dashboard.port", board["port"], 0, 65_535),
        write=check_flag("dashboard.write", board["write"]),
        password_env=str(board["password_env"]),
        password_file=None if file is None else Path(str(file)),
        trusted_proxy=None if proxy is None else str(proxy),
        storage=_storage(node["storage"]),
        data_root=Path(node["data"]["root"]),
    )


def report_config(cfg: DictConfig) -> ReportConfig:
    """Check the composed configuration of the verb `report`."""
    node = plain(cfg)
    return ReportConfig(
        study=existing_study(node["study"]),
        folder=_folder(node["dir"]),
        storage=_storage(node["storage"]),
        data_root=Path(node["data"]["root"]),
    )


def compare_config(cfg: DictConfig) -> CompareConfig:
    """Check the composed configuration of the verb `compare`."""
    node = plain(cfg)
    names = node["studies"]
    if not isinstance(names, list) or len(set(map(str, names))) < 2:
        raise UsageError(
            f"studies is {names!r}, but must be the names of two or more; "
            "golf-opt compare studies=[A,B]"
        )
    return CompareConfig(
        studies=tuple(dict.fromkeys(map(str, names))),
        folder=_folder(node["dir"]),
        storage=_storage(node["storage"]),
    )


def list_config(cfg: DictConfig) -> ListConfig:
    """Check the composed configuration of the verb `ls`."""
    node = plain(cfg)
    return ListConfig(
        check_choice("format", node["format"], LIST_FORMATS), _storage(node["storage"])
    )


def confirm_config(cfg: DictConfig) -> ConfirmConfig:
    """Check the composed configuration of the verb `confirm`."""
    node = plain(cfg)
    return ConfirmConfig(
        study=existing_study(node["study"]),
        folder=_folder(node["dir"]),
        top=check_int("top", node["top"], 1),
        seeds=check_int("seeds", node["seeds"], 1, 10_000),
        target=check_share("target", node["target"]),
        storage=_storage(node["storage"]),
        data=_data(node["data"]),
        engine=_engine(node["engine"]),
    )


def record_config(cfg: DictConfig) -> RecordConfig:
    """Check the composed configuration of the verb `record`."""
    node = plain(cfg)
    if node["study"] is None and node["source"] is None:
        raise UsageError("study and source are None; give study=NAME, or source=FOLDER study=NAME.")
    slug = str(node["slug"])
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", slug):
        raise UsageError(
            f"slug is {node['slug']!r}, but must be the record's short name: small letters, "
            "digits, . and -."
        )
    return RecordConfig(
        study=node["study"],
        trial=node["trial"],
        source=None if node["source"] is None else Path(str(node["source"])),
        board=check_choice("board", str(node["board"]), BOARDS),  # 99 comes as a number
        slug=slug,
        how=str(node["how"] or ""),
        folder=_folder(node["dir"]),
        storage=_storage(node["storage"]),
        data=_data(node["data"]),
    )


def verify_config(cfg: DictConfig) -> VerifyConfig:
    """Check the composed configuration of the verb `verify`."""
    node = plain(cfg)
    path = node["path"]
    return VerifyConfig(
        path=_folder(node["dir"]) / "records" if path is None else Path(str(path)),
        data=_data(node["data"]),
    )


def reproduce_config(cfg: DictConfig) -> ReproduceConfig:
    """Check the composed configuration of the verb `reproduce`."""
    node = plain(cfg)
    return ReproduceConfig(
        part=check_choice("part", node["part"], REPRODUCE_PARTS),
        folder=_folder(node["dir"]) / "reproduction",
        introduction=str(node["introduction"]),
        tables=_group("tables", node["tables"]),
        trainings=_group("trainings", node["trainings"]),
        rows=tuple(_group("rows", row) for row in node["rows"]),
        about_pruning=str(node["about_pruning"]),
        prunings=_group("prunings", node["prunings"]),
        pruned_rows=tuple(_group("pruned_rows", row) for row in node["pruned_rows"]),
        curves=_group("curves", node["curves"]),
        findings=tuple(map(str, node["findings"])),
        data=_data(node["data"]),
        engine=_engine(node["engine"]),
    )


def source_config(node: Mapping[str, Any]) -> SourceConfig:
    """Check `study= trial=` and `weights= arch=`, of which a verb takes one pair."""
    study, weights, trial, arch = node["study"], node["weights"], node["trial"], node.get("arch")
    if (study is None) == (weights is None):
        given = "both are" if study is not None else "neither is"
        raise UsageError(
            f"study and weights name the net, and {given} given; give one: study=NAME, or "
            "weights=FILE arch=NAME."
        )
    if (weights is None) != (arch is None):
        need = "arch is missing; weights=FILE needs the arch=NAME that it was trained as"
        raise UsageError(f"{need}." if arch is None else "arch is given, but a study has its own.")
    if trial != "best":
        check_int("trial", trial, 0)
    return SourceConfig(
        None if study is None else str(study),
        trial,
        None if weights is None else Path(str(weights)),
        None if arch is None else _group("arch", arch),
    )


@dataclass(frozen=True)
class PruneConfig:
    """One run of `golf-opt prune`."""

    source: SourceConfig
    options: PruneOptions
    folder: Path
    storage: StorageConfig
    data: DataConfig
    engine: EngineConfig


def prune_config(cfg: DictConfig) -> PruneConfig:
    """Check the composed configuration of the verb `prune`."""
    node = plain(cfg)
    return PruneConfig(
        source=source_config(node),
        options=_prune_options(node),
        folder=_folder(node["dir"]),
        storage=_storage(node["storage"]),
        data=_data(node["data"]),
        engine=_engine(node["engine"]),
    )


def _prune_options(node: Mapping[str, Any]) -> PruneOptions:
    rounds = node["rounds"]
    check_keys("rounds", rounds, RoundOptions.__dataclass_fields__)
    return PruneOptions(
        method=check_choice("method", node["method"], PRUNE_METHODS),
        target=check_share("target", node["target"]),
        rule=check_choice("rule", node["rule"], PROTOCOLS),
        scope=check_choice("scope", node["scope"], SCOPES),
        seed=check_int("seed", node["seed"], 0, 2**63 - 1),
        order=check_choice("order", node["order"], SALIENCY_ORDERS),
        rounds=RoundOptions(
            share=check_share("rounds.share", rounds["share"]),
            epochs=check_int("rounds.epochs", rounds["epochs"], 1, 10_000),
            variants=check_int("rounds.variants", rounds["variants"], 1, 1000),
            patience=check_int("rounds.patience", rounds["patience"], 1, 1000),
            lr=check_share("rounds.lr", rounds["lr"]),
            batch_size=check_int("rounds.batch_size", rounds["batch_size"], 1, 65_536),
        ),
    )


def removal_config(cfg: DictConfig) -> RemovalConfig:
    """Check the composed configuration of the verb `rm`."""
    node = plain(cfg)
    return RemovalConfig(
        study=existing_study(node["study"]),
        folder=_folder(node["dir"]),
        yes=check_flag("yes", node["yes"]),
        force=check_flag("force", node["force"]),
        artifacts=check_flag("artifacts", node["artifacts"]),
        storage=_storage(node["storage"]),
    )


def export_config(cfg: DictConfig) -> ExportConfig:
    """Check the composed configuration of the verb `export`."""
    node = plain(cfg)
    output = _required_path("output", node["output"], "a folder to make")
    if output.exists():
        raise UsageError(f"output is {str(output)!r}, but must be a folder that is not there yet.")
    return ExportConfig(
        study=existing_study(node["study"]),
        folder=_folder(node["dir"]),
        output=output,
        checkpoints=check_flag("checkpoints", node["checkpoints"]),
        storage=_storage(node["storage"]),
    )


def import_config(cfg: DictConfig) -> ImportConfig:
    """Check the composed configuration of the verb `import`."""
    node = plain(cfg)
    return ImportConfig(
        input=_required_path("input", node["input"], "a folder that golf-opt export wrote"),
        name=_study_name(node["name"], "name"),
        folder=_folder(node["dir"]),
        storage=_storage(node["storage"]),
    )


def deploy_config(cfg: DictConfig) -> DeployConfig:
    """Check the composed configuration of the verb `deploy`."""
    node = plain(cfg)
    output = None if node["output"] is None else Path(str(node["output"]))
    if output is not None and output.is_dir():
        raise UsageError(f"output is {str(output)!r}, but must be a file, and that is a folder.")
    return DeployConfig(
        source=source_config(node),
        folder=_folder(node["dir"]),
        storage=_storage(node["storage"]),
        format=check_choice("format", node["format"], DEPLOY_FORMATS),
        output=output,
    )


def interpret_config(cfg: DictConfig) -> InterpretConfig:
    """Check the composed configuration of the verb `interpret`."""
    node = plain(cfg)
    protocol = node["protocol"]
    return InterpretConfig(
        source=source_config(node),
        folder=_folder(node["dir"]),
        storage=_storage(node["storage"]),
        data=_data(node["data"]),
        protocol=None if protocol is None else check_choice("protocol", protocol, PROTOCOLS),
        steps=check_int("steps", node["steps"], 1, 10_000),
    )


def load_yaml(path: Path) -> Any:
    """Read a YAML file of ours; one that cannot be parsed is named."""
    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except Exception as error:
        raise UsageError(f"{path} cannot be read as YAML: {error}") from error


def _group(name: str, node: object) -> Mapping[str, Any]:
    if not isinstance(node, dict):
        raise UsageError(f"{name} is {node!r}, but must be a group choice or a mapping.")
    return node


def _folder(value: object) -> Path:
    folder = Path(str(value))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"dir is {str(value)!r}, but must be a folder, and that is a file.")
    return folder


def _required_path(key: str, value: object, what: str) -> Path:
    if value is None or not str(value):
        raise UsageError(f"{key} is {value!r}, but must be {what}.")
    return Path(str(value))


def _study_name(name: object, key: str = "study.name") -> str | None:
    if name is None:
        return None
    text = str(name)
    if not text.strip() or len(text) > 200 or not text.isprintable():
        raise UsageError(
            f"{key} is {text!r}, but must be 1 to 200 printable characters, not only blanks."
        )
    return text


def _points(enqueue: object, folder: Path) -> tuple[Mapping[str, Any], ...]:
    """Return the points to run first: a name in conf/points, a mapping, or a list of mappings."""
    if enqueue is None:
        return ()
    if isinstance(enqueue, str):
        names = [path.stem for path in folder.glob("*.yaml")]
        enqueue = load_yaml(folder / f"{check_choice('study.enqueue', enqueue, names)}.yaml")
    points = enqueue if isinstance(enqueue, list) else [enqueue]
    for point in points:
        if not isinstance(point, dict) or not point:
            raise UsageError(
                f"study.enqueue holds {point!r}, but must hold mappings of parameter to value, "
                "such as {batch_size: 14, lr: 8e-4}."
            )
    return tuple(points)


def _storage(node: Mapping[str, Any]) -> StorageConfig:
    check_keys("storage", node, ("url", "url_env"))
    return StorageConfig(url=node["url"], url_env=node.get("url_env"))


def _data(node: Mapping[str, Any]) -> DataConfig:
    return DataConfig(check_choice("data.name", node["name"], DATASETS), Path(node["root"]))


def _engine(node: Mapping[str, Any]) -> EngineConfig:
    device = str(node["device"])
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UsageError(f"engine.device is {device!r}, but must be auto, cpu, cuda or cuda:N.")
    lanes = node["lanes"]
    return EngineConfig(
        name=check_choice("engine.name", node["name"], ENGINES),
        device=device,
        lanes=None if lanes == "auto" else check_int("engine.lanes", lanes, 1, 4096),
        threads=check_int("engine.threads", node["threads"], 1, 1024),
    )
