"""The pictures of a net: all are there, show the right numbers, and reach the dashboard."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from conftest import Ran, every_layer_net, net, random_tensors, residual_net, tiny_net
from PIL import Image
from safetensors.numpy import save_file

from golf_opt.golf.interpret import mosaics as figures
from golf_opt.golf.interpret.ascent import Climber
from golf_opt.golf.interpret.run import Look, blocks, draw, facts, head, observe
from golf_opt.golf.source import TrainedNet
from golf_opt.storage.studies import attach, attached
from golf_opt.task.arch import Net
from golf_opt.task.data import View
from golf_opt.task.forward import accuracy, forward, normalise

QUICK = (
    "data=digits", "engine=torch", "epochs=2", "trials=2", "space.batch_size=16", "space.lr=5e-3",
    "pruner=none",
)  # fmt: skip
NETS = [every_layer_net(), net("c4-5-4-prelu"), net("separable-697")]
DRAWN = [
    *NETS[:2],
    residual_net(),
    tiny_net(),
    tiny_net({"kind": "linear", "features": 300}, {"kind": "relu"}),
]


def look_at(of: Net, view: View) -> Look:
    return observe(TrainedNet("x", of, random_tensors(of)), view)


def blank(png: bytes) -> bool:
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    return int(pixels.min()) == int(pixels.max())


@pytest.mark.parametrize("of", DRAWN, ids=lambda of: f"{of.name}-{len(of.nodes)}")
def test_every_picture_of_any_net(of: Net, small_view: View) -> None:
    pictures = {picture.key: picture for picture in draw(look_at(of, small_view), steps=2)}
    expected = {"features", "visualised-features", "visualised-classes"}
    expected |= {"confusion", "mistakes", "survivors"}
    if blocks(of):
        expected |= {"first-channels", "visualised-channels"}
    expected |= {
        f"weights-{node.name}"
        for node in of.nodes
        if not node.shared and "weight" in {p.name.rpartition(".")[2] for p in node.parameters}
        and node.layer.kind in ("conv", "depthwise", "pointwise", "linear")
    }  # fmt: skip
    assert set(pictures) == expected
    for picture in pictures.values():
        width, height = Image.open(io.BytesIO(picture.data)).size
        assert 400 < width < 1300 and height < 4000
        assert not blank(picture.data)
    if "300" in str(of.nodes[0].output_shape):
        assert "The first 256 of 300 features." in pictures["visualised-features"].caption


def test_what_is_seen_is_what_the_net_does(small_view: View) -> None:
    of = net("c4-5-4")
    look = look_at(of, small_view)
    tensors, seen = look.trained.tensors, small_view.objective
    right = accuracy(of, tensors, seen.images, seen.labels)
    assert len(look.wrong) == round((1 - right) * len(seen)) > 0
    assert f"{100 * right:.2f} % (70 images)" in look.headline
    assert np.all(np.diff(look.confidence[look.wrong]) <= 0)
    assert look.features.shape == (10, 4, 9)
    outputs = dict(
        (node.name, x) for node, x in forward(of, tensors, normalise(of.input, seen.images))
    )["relu3"].reshape(len(seen), 4, 9)  # fmt: skip
    for digit in range(10):
        expected = outputs[seen.labels == digit].mean(axis=0)
        np.testing.assert_allclose(look.features[digit], expected, rtol=1e-5, atol=1e-6)


def test_holdout_looks_at_held_out_images(small_view: View) -> None:
    held = replace(small_view.train.take("holdout", np.arange(40)))
    view = replace(small_view, protocol="holdout", objective=held)
    look = look_at(net("c4-5-4"), view)
    assert len(look.scores) == 40 and look.headline.startswith("holdout accuracy")
    assert "the test set was not read" in facts(
        replace(look, trained=replace(look.trained, trial=optuna.trial.create_trial(value=0.5)))
    )["images"]  # fmt: skip


def test_blocks_and_head_of_nets() -> None:
    names = [block.name for block in blocks(net("deepml-separable"))]
    assert names[:2] == ["conv1 + batch_norm1 + relu1", "depthwise1 + batch_norm2 + relu2"]
    assert [block.channels for block in blocks(net("deepml-separable"))] == [16, 16, 58]
    again = [block.name for block in blocks(net("reused-separable"))]
    assert again.count("spatial") == 1 and again.count("spatial, used again") == 2
    for name in ("c4-5-4", "pytorch-example", "separable-697"):
        assert head(net(name)) == len(net(name).nodes) - 1


@pytest.mark.parametrize("of", NETS, ids=lambda of: of.name)
def test_ascent_beats_every_real_image(of: Net, small_view: View) -> None:
    """The image found drives its unit higher than any of the data does."""
    tensors = random_tensors(of)
    climber = Climber(of, tensors, steps=60)
    block = blocks(of)[0]
    outputs = forward(of, tensors, normalise(of.input, small_view.test.images))
    real = [x for _, x in outputs]
    found = climber.channels(block.end, range(block.channels))
    best = real[block.end].mean(axis=(2, 3)).max(axis=0)
    assert np.all(found.reached > best)
    assert np.all(found.reached > found.start)
    assert found.images.min() >= 0 and found.images.max() <= 1
    classes = climber.features(len(of.nodes) - 1, range(10))
    assert np.all(classes.reached > classes.start)
    assert (classes.reached > real[-1].max(axis=0)).sum() >= 8
    again = Climber(of, tensors, steps=60).channels(block.end, range(block.channels))
    np.testing.assert_array_equal(again.images, found.images)


def test_ascent_wakes_a_unit_that_is_off() -> None:
    """A ReLU that is off for the grey image, and a pruned slope, still show the way."""
    for name, slope in (("c4-5-4", None), ("c4-5-4-prelu", 0.0)):
        of = net(name)
        tensors = random_tensors(of)
        tensors["weights/conv1.weight"][0] = np.eye(4)
        tensors["weights/conv1.bias"][0] = -9.0  # the grey image gives about -4
        if slope is not None:
            tensors["weights/prelu1.weight"][0] = slope
        found = Climber(of, tensors, steps=60).channels(1, [0])
        assert found.start[0] == 0 < found.reached[0]


def test_what_a_feature_cannot_see_stays_grey() -> None:
    of = net("c4-5-4")
    corner = Climber(of, random_tensors(of), steps=20).features(head(of) - 1, [0]).images[0, 0]
    assert np.abs(corner[24:, 24:] - 0.5).max() < 0.02 < np.abs(corner[:10, :10] - 0.5).max()


def test_mosaics_put_tiles_where_they_belong() -> None:
    tiles = np.arange(12.0).reshape(2, 3, 1, 2)
    whole = figures.mosaic(tiles, gap=1)
    assert whole.shape == (3, 8)
    np.testing.assert_array_equal(whole[0, [0, 1, 3, 4, 6, 7]], np.arange(6))
    assert np.isnan(whole[1]).all() and np.isnan(whole[:, [2, 5]]).all()
    filled = figures.wrapped(np.ones((5, 2, 2)), 3)
    assert filled.shape == (2, 3, 2, 2) and np.isnan(filled[1, 2]).all()


def test_survivors_are_drawn_where_they_are(small_view: View) -> None:
    values = np.zeros((2, 3, 4))
    values[1, 2, 3] = 0.5
    cells = figures._survival(values)
    assert np.nansum(cells) == 1 and cells[1, 13] == 1
    wide = figures._survival(np.ones((2, 50, 40)) * np.array([1.0, 0.0] * 20))
    assert wide.shape == (2, 50) and np.all(wide == 0.5)


def test_interpret_by_command(golf: Callable[..., Ran], tmp_path: Path) -> None:
    """Pictures, a page without a network, and one copy of each on the dashboard."""
    assert golf("study", "arch=c4-5-4-prelu", "study.name=mine", *QUICK).status == 0
    ran = golf("interpret", "study=mine", "trial=1", "steps=2")
    assert ran.status == 0, ran.err
    folder = tmp_path / "studies" / "interpret" / "mine-trial-1"
    names = {path.name for path in folder.iterdir()}
    assert {"index.html", "confusion.png", "first-channels.png", "weights-conv3.png"} <= names
    html = (folder / "index.html").read_text()
    assert html.count("<img ") == len(names) - 1 == html.count('src="data:image/png;base64,')
    assert re.findall(r'(?:src|href)="(?!data:|#)', html) == []
    assert re.findall(r"https?://|url\(", html) == []
    assert "820, of which 820 are not zero" in html and "train accuracy" in html
    assert "holdout" not in html

    study = optuna.load_study(study_name="mine", storage="sqlite:///studies/golf.db")
    trial = study.trials[1]
    known = attached(study, trial)
    assert set(known) == names - {"confusion.png"}  # the dashboard draws that of its own
    assert next(iter(known)) == "index.html"
    page = tmp_path / "studies" / "artifacts" / known["index.html"]
    assert page.read_text() == html
    (folder / "stale.png").write_bytes(b"of an earlier version")
    files = len(list((tmp_path / "studies" / "artifacts").iterdir()))
    assert golf("interpret", "study=mine", "trial=1", "steps=3").status == 0
    assert attached(study, trial) == known
    assert len(list((tmp_path / "studies" / "artifacts").iterdir())) == files
    assert page.read_text() == (folder / "index.html").read_text() != html
    assert not (folder / "stale.png").exists()
    assert attached(study, study.trials[0]) == {}


def test_a_foreign_state_dict_is_looked_into(golf: Callable[..., Ran], tmp_path: Path) -> None:
    of = net("c4-5-4")
    tensors = random_tensors(of)
    theirs = {
        f"body.{i}.{p.name.rpartition('.')[2]}": torch.from_numpy(tensors[f"weights/{p.name}"])
        for i, p in zip((0, 0, 3, 3, 6, 6, 9, 9), of.parameters, strict=True)
    }
    torch.save(theirs, tmp_path / "net.pt")
    ran = golf("interpret", "weights=net.pt", "arch=c4-5-4", "data=digits", "steps=1")
    assert ran.status == 0, ran.err
    assert "names differ, matched by order" in ran.out
    assert "12 pictures" in ran.out and "dashboard" not in ran.out


def test_attaching_the_same_name_replaces(tmp_path: Path) -> None:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/x.db", study_name="x")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    for text in (b"one", b"two"):
        attach(study, tmp_path, study.trials[0], {"a.png": text, "b.html": text})
    rows = attached(study, study.trials[0])
    assert set(rows) == {"a.png", "b.html"}
    assert len(list((tmp_path / "artifacts").iterdir())) == 2
    assert (tmp_path / "artifacts" / rows["a.png"]).read_bytes() == b"two"

    from optuna_dashboard.artifact._backend import list_trial_artifacts

    system = study._storage.get_study_system_attrs(study._study_id)
    listed = list_trial_artifacts(system, {}, study.trials[0])
    assert {row["filename"]: row["mimetype"] for row in listed} == {
        "a.png": "image/png",
        "b.html": "text/html",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "neither is given"),
        (("study=nothing",), "study 'nothing' is not in the storage"),
        (("weights=none.pt", "arch=c4-5-4"), "none.pt cannot be read"),
        (("study=a", "protocol=train"), "protocol is 'train'"),
        (("study=a", "steps=0"), "steps is 0, but must be at least 1"),
        (("weights=bad.safetensors", "arch=c4-6-4"), "does not fit c4-6-4"),
    ],
)
def test_mistakes_cost_one_line(
    golf: Callable[..., Ran], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    save_file({"a.weight": np.zeros((3, 3), np.float32)}, tmp_path / "bad.safetensors")
    ran = golf("interpret", *arguments)
    assert ran.status == 2
    assert message in ran.err and ran.err.count("\n") == 1
    assert not (tmp_path / "studies" / "interpret").exists()
