"""What is measured together: which images of which models, in which colours, and what each kind of model gives."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio

from evaluation.config import EvaluateConfig
from evaluation.model import Model, baseline
from evaluation.scores import work
from evaluation.scores.checkpoints import Weights
from evaluation.scores.collect import evaluate
from evaluation.scores.images import ImageInfo, chunks_of, conditions_of
from evaluation.scores.networks import Located
from evaluation.scores.roster import Entry, scale_of
from evaluation.scores.upsamplers import FolderUpsampler, MethodUpsampler, NetworkUpsampler, identity_of_file
from evaluation.scores.work import Job
from harness.errors import InputError
from harness.networks import Network

CONFIG = EvaluateConfig(scale=4, metrics=("psnr",))


class Noise:
    """Three images of 24 x 28 px in each class; the names in `grey` have three equal channels."""

    path, fingerprint = "noise", "f"

    def __init__(self, *classes: str, grey: tuple[str, ...] = ()) -> None:
        self.classes, self.grey = list(classes), grey

    def images(self, split: str, image_class: str) -> list[ImageInfo]:
        names = [f"{image_class}/{number}" for number in range(3)]
        return [ImageInfo(name, 24, 28, name in self.grey, i, name) for i, name in enumerate(names)]

    def read(self, image: ImageInfo) -> np.ndarray:
        channels = 1 if image.grey else 3
        pixels = np.random.default_rng([ord(c) for c in image.key]).integers(0, 256, (24, 28, channels), dtype=np.uint8)
        return np.ascontiguousarray(np.broadcast_to(pixels, (24, 28, 3)))


def sr_files(folder: Path, source: Noise, edge: tuple[int, int] = (24, 28)) -> Path:
    """An image in the size of each HR image, as another system would have made them."""
    for name in source.classes:
        (folder / name).mkdir(parents=True)
        for image in source.images("test", name):
            Image.fromarray(np.full((*edge, 3), 90, np.uint8)).save(folder / f"{image.key}.png")
    return folder


def test_a_grey_image_is_scored_by_its_levels_and_its_neighbours_in_colour_by_luma(tmp_path: Path) -> None:
    source = Noise("sea", grey=("sea/1",))
    model = Model("flat", "folder", str(sr_files(tmp_path / "sr", source)))
    scores = evaluate([model], CONFIG, tmp_path, source=source).values("flat", "sea", "psnr")
    for image in source.images("test", "sea"):
        pair = [source.read(image)[4:-4, 4:-4], np.full((16, 20, 3), 90, np.uint8)]
        levels = [x[..., 0].astype(float) if image.grey else rgb2ycbcr(x)[..., 0] for x in pair]
        assert scores[image.key] == pytest.approx(peak_signal_noise_ratio(*levels, data_range=255), abs=1e-3)


def test_models_of_every_group_are_measured_once_on_each_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forwards: Counter[str] = Counter()

    class Counted(MethodUpsampler):
        def batch(self, lr_NHWC: np.ndarray, keys: Any) -> tuple[np.ndarray, np.ndarray]:
            forwards.update(keys)
            return super().batch(lr_NHWC, keys)

    monkeypatch.setattr(work, "GROUP_SIZE", 2)
    models = [baseline(name) for name in ("nearest", "bilinear", "bicubic")]
    opened = lambda entry, scale, tile_px, device: Counted(entry.model.name, scale)  # noqa: E731
    table = evaluate(models, CONFIG, tmp_path, source=Noise("sea", "sand"), opener=opened)
    assert not table.missing and set(table.images["model"]) == {"nearest", "bilinear", "bicubic"}
    assert len(forwards) == 6 and set(forwards.values()) == {3}


def test_at_most_as_many_images_of_each_class_are_measured_as_asked_for_the_first_ones(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"max_images": 2})
    table = evaluate([baseline("nearest")], config, tmp_path, source=Noise("sea", "sand"))
    assert list(table.images["image"]) == ["sea/0", "sea/1", "sand/0", "sand/1"]


def test_a_condition_bears_its_split_and_a_pooled_one_holds_the_chosen_classes_alone() -> None:
    config = EvaluateConfig(splits=("test", "val"), classes=("sea", "sand"), pool="all")
    conditions = conditions_of(config, Noise("sea", "sand", "ice"))
    assert [c.name for c in conditions] == ["test/sea", "test/sand", "test/all", "val/sea", "val/sand", "val/all"]
    assert {c.classes for c in conditions if c.image_class == "all"} == {("sea", "sand")}
    named = conditions_of(config.model_copy(update={"pool": "sea"}), Noise("sea", "sand"))
    assert [c.name for c in named] == ["test/sea", "test/sand", "val/sea", "val/sand"], "a class bears the name already"


def test_models_of_several_scales_are_refused_unless_the_configuration_says_one() -> None:
    def entry(scale: int) -> Entry:
        weights = Weights(Path("x"), "s", SimpleNamespace(scale=scale))  # type: ignore[arg-type]
        return Entry(Model(f"x{scale}", "checkpoint", "x"), "s", weights)

    assert scale_of([entry(2), entry(2)], EvaluateConfig()) == 2
    assert scale_of([entry(2), entry(4)], EvaluateConfig(scale=4)) == 4
    with pytest.raises(InputError, match=r"upscale by \[2, 4\]; set evaluate\.scale"):
        scale_of([entry(2), entry(4)], EvaluateConfig())


def test_finished_images_have_no_spread_and_the_reason_says_so(tmp_path: Path) -> None:
    source = Noise("sea")
    model = Model("theirs", "folder", str(sr_files(tmp_path / "sr", source)))
    config = CONFIG.model_copy(update={"metrics": ("psnr", "diversity")})
    table = evaluate([model], config, tmp_path, source=source)
    reason = "finished images have no spread: the model itself is needed"
    assert table.missing == {("theirs", "sea", "diversity"): reason}


def test_finished_images_stand_for_one_degradation_alone(tmp_path: Path) -> None:
    source = Noise("sea")
    model = Model("theirs", "folder", str(sr_files(tmp_path / "sr", source)))
    config = CONFIG.model_copy(update={"kernels": ("area", "nearest")})
    table = evaluate([model, baseline("nearest")], config, tmp_path, source=source)
    assert set(table.missing) == {("theirs", name, "psnr") for name in ("area/sea", "nearest/sea")}
    assert "stand for one degradation, but 2 are evaluated" in table.missing["theirs", "area/sea", "psnr"]


def test_finished_images_of_another_size_are_refused_with_both_sizes(tmp_path: Path) -> None:
    upsampler = FolderUpsampler(sr_files(tmp_path / "sr", Noise("sea"), (24, 27)), 4, "theirs")
    with pytest.raises(InputError, match=r"0\.png: is 27 x 24 px, the HR image 28 x 24; crop HR"):
        upsampler(np.zeros((6, 7, 3), np.uint8), "sea/0")


def test_finished_images_are_others_once_a_file_has_another_name(tmp_path: Path) -> None:
    folder = sr_files(tmp_path / "sr", Noise("sea"))
    model = Model("theirs", "folder", str(folder))
    before = identity_of_file(model)
    (folder / "sea" / "2.png").rename(folder / "sea" / "3.png")
    assert identity_of_file(model) != before, "though the same files follow each other"


def test_a_finished_image_of_the_class_goes_before_one_of_no_class(tmp_path: Path) -> None:
    folder = sr_files(tmp_path / "sr", Noise("sea"))
    (folder / "0.png").write_bytes((folder / "sea" / "1.png").read_bytes())
    assert FolderUpsampler(folder, 4, "theirs").find("sea/0") == folder / "sea" / "0.png"


def test_outputs_beyond_black_and_white_are_cut_and_others_rounded() -> None:
    class Given(torch.nn.Module):
        def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
            return torch.tensor([-0.2, 1.3, 100.6 / 255]).view(1, 3, 1, 1).expand(1, 3, 4, 4).clone()

    sr_image = NetworkUpsampler(Network(Given(), 4), "net")(np.zeros((1, 1, 3), np.uint8))
    assert (sr_image == [0, 255, 101]).all()


def test_a_network_that_needs_the_whole_image_gets_no_tiles() -> None:
    class Enlarging(torch.nn.Module):
        def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
            sizes.append(tuple(image_BCHW.shape[-2:]))
            return image_BCHW.repeat_interleave(4, -1).repeat_interleave(4, -2)

    sizes: list[tuple[int, ...]] = []
    for tileable in (False, True):
        network = Network(Enlarging(), 4, overlap_px=2, tileable=tileable)
        NetworkUpsampler(network, "net", tile_px=16)(np.zeros((40, 40, 3), np.uint8))
    assert sizes[0] == (40, 40) and len(sizes) > 2 and (40, 40) not in sizes[1:]


def test_numbers_and_features_of_other_weights_are_others(tmp_path: Path) -> None:
    jobs = []
    for content in (b"one", b"two"):
        file = tmp_path / f"{content.hex()}.pth"
        file.write_bytes(content)
        jobs.append(Job([], CONFIG, 4, "f", [], ("fid",), Located({"fid": file}), ""))
    assert jobs[0].inception != jobs[1].inception and jobs[0].identity("fid") != jobs[1].identity("fid")


def test_scores_of_another_dataset_degradation_or_scale_lie_in_another_file() -> None:
    chunk = chunks_of("test", "sea", Noise("sea"), None)[0]
    others = [("g", 4, "area"), ("f", 2, "area"), ("f", 4, "nearest")]
    assert len({chunk.cell_name(*each) for each in [("f", 4, "area"), *others]}) == 4
    assert chunk.cell_name("f", 4, "area") != chunks_of("val", "sea", Noise("sea"), None)[0].cell_name("f", 4, "area")
