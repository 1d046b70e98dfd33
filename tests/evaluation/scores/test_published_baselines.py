"""Bicubic x4 on Set5 and Set14 gives the published PSNR and SSIM, through the functions that the commands call."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from evaluation.scores.score_folder import score_folders
from harness.data.degrade import degrade_image, upscale_image
from harness.data.images import encode_png, read_image

pytestmark = pytest.mark.skipif(
    "SR_BENCHMARK_DIR" not in os.environ, reason="SR_BENCHMARK_DIR is not set to the folder of Set5 and Set14"
)


@pytest.mark.parametrize(("name", "psnr", "ssim"), [("Set5", 28.42, 0.8104), ("Set14", 26.00, 0.7027)])
def test_bicubic_gives_the_published_scores(name: str, psnr: float, ssim: float, tmp_path: Path) -> None:
    hr = Path(os.environ["SR_BENCHMARK_DIR"]) / name / "HR"
    for path in hr.glob("*.png"):
        lr_image = degrade_image(read_image(path), 4, "matlab-bicubic")
        (tmp_path / path.name).write_bytes(encode_png(upscale_image(lr_image, 4, "bicubic")))
    mean = score_folders(tmp_path, hr, color="y", crop_border=4)["mean"]
    assert mean["psnr"] == pytest.approx(psnr, abs=0.02)
    assert mean["ssim"] == pytest.approx(ssim, abs=0.001)


def test_the_grey_image_of_set14_is_scored_as_grey(tmp_path: Path) -> None:
    """Turned to RGB and back, the set's mean would be 26.09 dB."""
    source = Path(os.environ["SR_BENCHMARK_DIR"]) / "Set14" / "HR" / "img_003.png"
    hr_image = read_image(source)
    sr_image = upscale_image(degrade_image(hr_image, 4, "matlab-bicubic"), 4, "bicubic")
    assert hr_image.ndim == sr_image.ndim == 2
    scores = {}
    for name, image in [("grey", sr_image), ("rgb", np.repeat(sr_image[..., None], 3, axis=2))]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "img_003.png").write_bytes(encode_png(image))
        (tmp_path / "hr").mkdir(exist_ok=True)
        (tmp_path / "hr" / "img_003.png").write_bytes(source.read_bytes())
        scores[name] = score_folders(tmp_path / name, tmp_path / "hr", crop_border=4)["mean"]
    difference = sr_image[4:-4, 4:-4].astype(float) - hr_image[4:-4, 4:-4]
    assert scores["grey"]["psnr"] == pytest.approx(10 * np.log10(255**2 / np.mean(difference**2)))
    assert scores["rgb"] == scores["grey"]
