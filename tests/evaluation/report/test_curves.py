"""Training curves: what is read from metrics.jsonl, and what is drawn."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from evaluation.report.charts import chart_svg
from evaluation.report.curves import Curve, Series, read_curves, read_log, text_alternative, thin, title_of


def write_rows(folder: Path, rows: list[dict], more: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + more)
    return folder


def test_log_gives_every_number_by_step_and_leaves_out_what_is_none(tmp_path):
    rows = [
        {"step": 1, "phase": "p", "loss/l1": 0.5, "note": "text", "flag": True},
        {"step": 2, "phase": "p", "loss/l1": float("nan")},
        {"step": 3, "phase": "p", "val/psnr": 24.0, "loss/l1": float("inf")},
        {"phase": "p", "loss/l1": 9.0},
    ]
    folder = write_rows(tmp_path / "a", rows, '{"step": 4, "loss/l1": 0.')
    log = read_log(folder / "metrics.jsonl")
    assert log.points == {"loss/l1": [(1, 0.5)], "val/psnr": [(3, 24.0)]}
    assert (log.phase, log.first_step, log.last_step) == ("p", 1, 3)
    assert read_log(tmp_path / "none.jsonl").points == {}


def test_shared_phase_is_one_line_and_each_run_goes_on_from_it(tmp_path):
    shared = write_rows(
        tmp_path / "pretrain-0123456789ab", [{"step": s, "phase": "pretrain", "d/real": 1.0} for s in (1, 2)]
    )
    own = [
        write_rows(tmp_path / f"finetune-{n}", [{"step": s, "phase": "finetune", "d/real": float(n)} for s in (3, 4)])
        for n in range(2)
    ]
    (curve,) = read_curves([("a", [shared, own[0]]), ("b", [shared, own[1]])])
    assert [(line.label, line.colour, line.steps) for line in curve.series] == [
        ("pretrain (shared by 2 runs)", None, (1, 2)),
        ("a", 0, (2, 3, 4)),
        ("b", 1, (2, 3, 4)),
    ]
    assert [line.values[0] for line in curve.series] == [1.0, 1.0, 1.0]
    assert curve.phases == (("pretrain", 0), ("finetune", 2))


def test_a_phase_begins_where_the_first_run_begins_it(tmp_path):
    runs = []
    for name, last in (("a", 4), ("b", 9)):
        first = write_rows(tmp_path / f"p-{name}", [{"step": last, "phase": "pretrain", "x": 1.0}])
        runs.append((name, [first, write_rows(tmp_path / name, [{"step": 20, "phase": "finetune", "x": 1.0}])]))
    assert read_curves(runs)[0].phases == (("pretrain", 0), ("finetune", 4))


def test_phases_of_one_run_are_one_line(tmp_path):
    folders = [
        write_rows(tmp_path / f"p{n}", [{"step": 10 * n + s, "phase": f"p{n}", "loss/total": 1.0} for s in (1, 2)])
        for n in range(3)
    ]
    (curve,) = read_curves([("run", folders)])
    assert curve.series[0].steps == (1, 2, 11, 12, 21, 22)


def test_figures_of_the_seeds_come_first_and_every_other_number_follows(tmp_path):
    keys = ["zeta", "learning_rate/generator", "loss/l1", "augment/p", "d/real", "d/fake", "augment/r_t", "val/psnr"]
    folder = write_rows(tmp_path / "a", [{"step": 1, "phase": "p", **dict.fromkeys(keys, 1.0)}])
    found = [curve.key for curve in read_curves([("a", [folder])])]
    assert found == [
        "val/psnr",
        "d/fake",
        "d/real",
        "augment/r_t",
        "augment/p",
        "loss/l1",
        "learning_rate/generator",
        "zeta",
    ]
    assert title_of("loss/vgg") == "Generator loss term: vgg (unweighted)" and title_of("zeta") == "zeta"


def test_thinning_keeps_the_mean_the_order_and_the_last_point():
    points = [(step, float(step % 7)) for step in range(1000)]
    thinned = thin(points, 50)
    steps = [step for step, _ in thinned]
    assert len(thinned) == 50 and steps == sorted(steps) and thinned[-1] == points[-1]
    assert sum(value for _, value in thinned) / 50 == pytest.approx(3.0, abs=0.1)
    assert thin(points[:10], 50) == points[:10]


@pytest.mark.parametrize("num_runs", [2, 30])
def test_chart_is_wellformed_svg_that_takes_its_colours_from_the_page(num_runs):
    series = (
        Series("shared", None, (0, 10), (1.0, 0.5)),
        Series("a", 0, (10, 20), (0.5, 0.2)),
        Series("b", 1, (20,), (1.0,)),
    )
    svg = chart_svg(Curve("loss/l1", "Loss", series, (("pretrain", 0), ("fine <&>", 10))), num_runs)
    ET.fromstring(svg)
    assert "var(--s0)" in svg and "var(--faint)" in svg and ("var(--s1)" in svg) == (num_runs == 2)
    assert not re.search(r"#0[0-9a-f]0|<script|<style|<metadata|href=\"http|font-family", svg)
    assert "fine &lt;&amp;&gt;" in svg


def test_axis_labels_keep_all_their_digits():
    svg = chart_svg(Curve("augment/p", "p", (Series("a", 0, (0, 1), (0.1, 0.105)),), ()), 1)
    labels = re.findall(r">(0\.\d+)</text>", svg)
    assert len(labels) == len(set(labels)) >= 3


def test_text_alternative_tells_how_each_line_ends():
    curve = Curve("val/psnr", "Validation PSNR (dB)", (Series("a", 0, (1, 2), (20.0, 24.125)),), ())
    assert text_alternative(curve) == "Line chart over training steps: Validation PSNR (dB). a ends at 24.12."


def test_names_of_phases_that_would_touch_stand_in_steps():
    near = (("pretrain", 0), ("adversarial", 1000), ("finetune", 1100), ("last", 1400))
    steps = tuple(range(-100, 1600, 100))
    curve = Curve("loss/l1", "Loss", (Series("a", 0, steps, tuple(map(float, steps))),), near)
    svg = chart_svg(curve, 1)
    height_of = {}
    for name, _ in near:
        text = next(part for part in svg.split("<text")[1:] if f">{name}</text>" in part)
        height_of[name] = float(re.search(r"translate\([\d.]+ ([\d.]+)\)|y=\"([\d.]+)\"", text).expand(r"\1\2"))
    assert height_of["pretrain"] == height_of["adversarial"] == height_of["last"]
    assert height_of["finetune"] < height_of["adversarial"] - 6
