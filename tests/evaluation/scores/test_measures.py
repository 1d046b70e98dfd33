"""The numbers of a pair as the evaluation computes them, against scikit-image in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from evaluation.scores.measures import Measures
from evaluation.scores.networks import Located, Networks
from harness.quality import lpips


def smooth(seed: int) -> np.ndarray:
    rows, columns = np.mgrid[:90, :117] / 20 + seed
    return 127 + 100 * np.sin(rows)[..., None] * np.cos(columns[..., None] + np.arange(3))


HALF_BLACK = np.where(np.arange(117)[None, :, None] < 60, 0.0, 255.0) * np.ones((90, 1, 3))
NOISE = np.random.default_rng(0).normal(0, 1, (90, 117, 3))
PAIRS = {
    "a little noise": (smooth(0), smooth(0) + 3 * NOISE),
    "as far as float32 goes": (smooth(0), smooth(0) + 19 * NOISE),
    "flat and brighter": (np.full((90, 117, 3), 3.0), np.full((90, 117, 3), 5.0)),
    "flat with noise": (HALF_BLACK, HALF_BLACK + 4 * NOISE),
    "nothing in common": (smooth(0), smooth(2)),
    "black for white": (HALF_BLACK, 255 - HALF_BLACK),
}


@pytest.mark.parametrize("name", PAIRS)
def test_ssim_is_that_of_float64_to_the_stated_precision_and_psnr_equal(name: str) -> None:
    hr_HWC, sr_HWC = (np.clip(image, 0, 255).round().astype(np.uint8) for image in PAIRS[name])
    measures = Measures(("psnr", "ssim"), "y", 0, Networks(Located()))
    scores = measures.scores(sr_HWC[None], measures.reference(hr_HWC[None]))
    weights = np.array([65.481, 128.553, 24.966]) / 255
    hr, sr = hr_HWC @ weights + 16, sr_HWC @ weights + 16
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    expected = structural_similarity(sr, hr, data_range=255, **options)[1][5:-5, 5:-5].mean()
    assert scores["ssim"][0] == pytest.approx(expected, abs=5e-6 if "flat" in name else 1e-6)
    assert scores["psnr"][0] == pytest.approx(peak_signal_noise_ratio(hr, sr, data_range=255), abs=1e-9)


def test_lpips_of_a_batch_is_that_of_each_image_in_groups_and_in_tiles(tmp_path: Path, monkeypatch) -> None:
    from torchvision.models import alexnet

    torch.manual_seed(0)
    state = {f"features.{name}": value for name, value in alexnet(weights=None).features.state_dict().items()}
    torch.save(state, tmp_path / "alexnet.pth")
    network = Networks(Located({"lpips-alex": tmp_path / "alexnet.pth"}))
    hr_NHWC, sr_NHWC = np.random.default_rng(0).integers(0, 256, (2, 5, 80, 72, 3), dtype=np.uint8)
    measures = Measures(("lpips-alex",), "y", 0, network)

    def scores() -> np.ndarray:
        return measures.scores(sr_NHWC, measures.reference(hr_NHWC))["lpips-alex"]

    whole = scores()
    assert len(set(whole.tolist())) == 5
    alone = [
        measures.scores(sr[None], measures.reference(hr[None]))["lpips-alex"][0] for sr, hr in zip(sr_NHWC, hr_NHWC)
    ]
    assert whole == pytest.approx(np.array(alone), rel=1e-5)
    monkeypatch.setattr("evaluation.scores.measures._GROUP_PIXELS", 2 * 80 * 72)
    assert [len(group[0]) for group in measures.reference(hr_NHWC).features["lpips-alex"]] == [2, 2, 1]
    assert scores() == pytest.approx(whole, rel=1e-5)
    monkeypatch.setattr(lpips, "WHOLE_PX", 0)
    assert measures.reference(hr_NHWC).features["lpips-alex"] is None
    assert scores() == pytest.approx(whole, rel=1e-5)
