"""`golf-opt tune` on an emulated GPU whose times are those of the model in bench."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import modelled_gpu
import pytest
from test_cuda import nvrtc
from test_native import SMALL, net_of, snapshot_of
from test_proof import AUTO, gpu

from golf_opt.cli.compose import compose
from golf_opt.config import schema
from golf_opt.config.check import load
from golf_opt.config.errors import UsageError
from golf_opt.engines import create_engine, provenance
from golf_opt.engines.cuda import verdict
from golf_opt.engines.cuda.driver import Found
from golf_opt.engines.cuda.program import Block, block_for, blocks_of
from golf_opt.engines.native import compiler, library
from golf_opt.manage import tune as tuning

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
__all__ = ["gpu"]  # a fixture
NET = net_of(SMALL)
CHOICES = {"images": (4, 8), "blocks": (3, 4)}


@pytest.fixture
def config(tmp_path: Path) -> schema.TuneConfig:
    (tmp_path / "small.yaml").write_text(json.dumps(NET.arch))
    return load(schema.TuneConfig, compose("tune", [f"arch={tmp_path}/small.yaml", "data=digits"]))


@pytest.fixture
def modelled(gpu: Found, monkeypatch: pytest.MonkeyPatch) -> Iterator[Found]:
    monkeypatch.setattr(tuning, "find_gpu", lambda: gpu)
    monkeypatch.setattr(tuning, "CHOICES", CHOICES)
    monkeypatch.setattr(tuning, "BATCH_SIZES", (14,))
    monkeypatch.setattr(tuning, "SECONDS", 2e-3)
    monkeypatch.setattr(verdict, "RACE_S", 2e-3)
    monkeypatch.setattr(verdict, "DEVICE", "modelled_gpu:Modelled")
    yield gpu
    library.forget(verdict._layouts_name(gpu, NET))


@nvrtc
def test_the_fastest_layout_that_proved_itself_is_kept_and_used(
    modelled: Found, config: schema.TuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "block_for", lambda size: Block(images=4))
    monkeypatch.setattr(verdict, "PATIENCE_S", 120.0)  # the emulation is no GPU
    layouts = [Block(images=4), Block(images=8)]
    monkeypatch.setenv(modelled_gpu.TIMES, modelled_gpu.predict(NET, 14, layouts))
    said: list[str] = []
    tuning.tune(config, said.append)
    told = [line for line in said if line.startswith("batch 14: ")]
    assert len(told) == 4, said
    speeds = [re.search(r"([\d,]+) images/s$", line) for line in told]
    four, eight = (int(found[1].replace(",", "")) for found in speeds if found)
    assert eight > 1.2 * four, told
    assert told[2].endswith("3 blocks: left out: it spills 96 bytes of registers")
    assert re.search(r"4 blocks: left out: the gradient of \S+ is off", told[3])
    best = {14: Block(images=8)}
    assert blocks_of(verdict.tuned(modelled, NET)) == best
    assert said[-1].startswith("engine=auto takes ")

    monkeypatch.setattr(verdict, "_proof", lambda asked: {"why": None, "lanes": 4, "rate": 1e9})
    engine = create_engine(replace(AUTO, name="cuda"), snapshot_of(64), NET, said.append)
    engine.close()
    assert engine.device.endswith(", tuned (batch 14: 8 images, 8 warps, 2 splits, 2 blocks)")
    assert provenance(engine)["device"] == engine.device  # each trial has it

    assert verdict.tuned(replace(modelled, driver="1.1"), NET) == {}
    changed = library.sources() | {"conv.hpp": "// another kernel"}
    with monkeypatch.context() as patch:
        patch.setattr(library, "sources", lambda: changed)
        assert verdict.tuned(modelled, NET) == {}
    assert blocks_of(verdict.tuned(modelled, NET)) == best


def test_stopped_it_leaves_the_best_so_far(
    modelled: Found, config: schema.TuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = iter([100.0, 101.0, 150.0])  # of the first, of noise, of what is better

    def measured(*given: object) -> dict[str, object]:
        rate = next(rates, None)
        if rate is None:
            raise KeyboardInterrupt
        return {"why": None, "rate": rate}

    monkeypatch.setattr(verdict, "measured", measured)
    monkeypatch.setattr(tuning, "BATCH_SIZES", (4, 14, 32))
    monkeypatch.setattr(tuning, "CHOICES", {"warps": (2, 4, 8), "blocks": (2,)})
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(config, lambda line: None)
    kept = blocks_of(verdict.tuned(modelled, NET))
    assert kept == {4: Block(images=4, warps=4), 14: Block(images=8), 32: Block(images=8)}


def test_a_gpu_that_fails_as_it_is_is_refused(
    modelled: Found, config: schema.TuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "measured", lambda *given: {"why": "it hangs"})
    with pytest.raises(UsageError, match="the GPU fails at batch size 14"):
        tuning.tune(config, lambda line: None)
    assert verdict.tuned(modelled, NET) == {}


def test_layouts_that_fail_side_by_side_are_dropped(
    modelled: Found, config: schema.TuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "measured", lambda *given: {"why": None, "rate": 1.0})
    monkeypatch.setattr(verdict, "_proof", lambda asked: {"why": "it hangs"})
    said: list[str] = []
    tuning.tune(config, said.append)
    assert said[-1].endswith("it hangs; see golf-opt doctor")
    assert verdict.tuned(modelled, NET) == {}


def test_without_a_gpu_it_says_so(
    config: schema.TuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "find_gpu", lambda: None)
    with pytest.raises(UsageError, match=r"must have an NVIDIA GPU .* none is found"):
        tuning.tune(config, lambda line: None)


def test_a_batch_size_between_tuned_ones_takes_the_larger_ones_layout() -> None:
    tuned = {4: Block(images=4), 14: Block(images=8, warps=4), 32: Block(images=16)}
    sizes = (1, 4, 5, 14, 15, 32, 100)
    assert [block_for(size, tuned).images for size in sizes] == [4, 4, 8, 8, 16, 16, 16]
