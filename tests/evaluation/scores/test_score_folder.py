"""`harness score`: two folders in, numbers out, and each wrong input in one sentence."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from skimage.color import rgb2lab, rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from evaluation.scores.score_folder import print_scores, score_folders, write_json
from harness.cli_scores import score
from harness.errors import InputError


@pytest.fixture
def folders(write_images, tmp_path: Path) -> tuple[Path, Path]:
    write_images(tmp_path / "sr", 3, 20.0)
    write_images(tmp_path / "hr", 3, 4.0)
    return tmp_path / "sr", tmp_path / "hr"


def no_weights(name: str) -> Path:
    raise InputError(f"{name} is absent; run `harness weights fetch {name}`.")


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("border", [0, 4])
def test_psnr_and_ssim_on_luma_equal_scikit_image(folders: tuple[Path, Path], border: int) -> None:
    sr, hr = folders
    result = score_folders(sr, hr, color="y", crop_border=border)
    window = slice(border, -border or None)
    for name, scores in result["images"].items():
        pair = [rgb2ycbcr(read(folder / f"{name}.png"))[window, window, 0] for folder in (hr, sr)]
        expected = structural_similarity(
            *pair, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        assert scores["ssim"] == pytest.approx(expected, abs=1e-4)
        assert scores["psnr"] == pytest.approx(peak_signal_noise_ratio(*pair, data_range=255), abs=1e-4)
    assert result["mean"]["psnr"] == pytest.approx(np.mean([s["psnr"] for s in result["images"].values()]))


def test_rgb_measures_all_channels_and_mse_is_for_values_from_minus_one_to_one(folders: tuple[Path, Path]) -> None:
    sr, hr = folders
    result = score_folders(sr, hr, color="rgb", metrics=("mse", "psnr", "ssim"))
    pair = [read(folder / "000.png").astype(float) / 127.5 - 1 for folder in (sr, hr)]
    assert result["images"]["000"]["mse"] == pytest.approx(np.mean((pair[0] - pair[1]) ** 2))
    assert result["images"]["000"]["psnr"] == pytest.approx(peak_signal_noise_ratio(*pair, data_range=2))
    levels = [read(folder / "000.png") for folder in (sr, hr)]
    expected = structural_similarity(
        *levels, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2
    )
    assert result["images"]["000"]["ssim"] == pytest.approx(expected, abs=1e-4)


def test_mse_leaves_out_the_border_and_the_colour_shift_is_that_of_scikit_images_lab(
    folders: tuple[Path, Path],
) -> None:
    scores = score_folders(*folders, crop_border=5, metrics=("mse", "color-shift"))["images"]["001"]
    sr, hr = (read(folder / "001.png") for folder in folders)
    inner = [image[5:-5, 5:-5].astype(float) / 127.5 - 1 for image in (sr, hr)]
    assert scores["mse"] == pytest.approx(np.mean((inner[0] - inner[1]) ** 2))
    tints = [rgb2lab(image)[..., 1:].mean(axis=(0, 1)) for image in (sr, hr)]
    assert scores["color-shift"] == pytest.approx(np.hypot(*(tints[0] - tints[1])), abs=1e-3)
    assert min(abs(tints[0] - tints[1])) > 0.05, "both axes count"


@pytest.mark.parametrize("sr_mode", ["L", "RGB"])
def test_a_grey_image_is_compared_as_grey(folders: tuple[Path, Path], sr_mode: str) -> None:
    sr, hr = folders
    for folder, mode in ((sr, sr_mode), (hr, "L")):
        Image.open(folder / "000.png").convert(mode).save(folder / "000.png")
    scores = score_folders(sr, hr, metrics=("psnr", "ssim"))["images"]["000"]
    pair = [np.asarray(Image.open(folder / "000.png").convert("L")) for folder in (hr, sr)]
    expected = structural_similarity(
        *pair, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert scores["ssim"] == pytest.approx(expected, abs=1e-4)
    assert scores["psnr"] == pytest.approx(peak_signal_noise_ratio(*pair, data_range=255), abs=0.01)


def test_other_suffixes_match_and_equal_images_are_infinitely_good(folders: tuple[Path, Path], tmp_path: Path) -> None:
    _, hr = folders
    Image.open(hr / "000.png").save(tmp_path / "a.bmp")
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    Image.open(hr / "000.png").save(tmp_path / "x" / "one.bmp")
    Image.open(hr / "000.png").save(tmp_path / "y" / "one.png")
    result = score_folders(tmp_path / "x", tmp_path / "y")
    assert math.isinf(result["mean"]["psnr"]) and result["notes"] == []
    write_json(result, tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["mean"] == {"psnr": "inf", "ssim": 1.0}


def test_a_mean_that_single_equal_images_make_infinite_names_them(folders: tuple[Path, Path]) -> None:
    sr, hr = folders
    Image.open(hr / "001.png").save(sr / "001.png")
    result = score_folders(sr, hr)
    assert math.isinf(result["mean"]["psnr"]) and math.isfinite(result["images"]["000"]["psnr"])
    (note,) = result["notes"]
    assert note.startswith(f"PSNR: 1 of {len(result['images'])} images equal their originals") and "001" in note


def test_images_in_linked_folders_are_scored(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for folder in folders:
        elsewhere = tmp_path / f"elsewhere-{folder.name}"
        shutil.copytree(folder, elsewhere)
        (folder / "linked").symlink_to(elsewhere)
    names = score_folders(*folders)["images"]
    assert {name for name in names if "/" in name} == {f"linked/{name}" for name in names if "/" not in name}


@pytest.mark.parametrize(
    ("extra", "said"), [("sr", "sr: 9; only in .*hr: none;"), ("hr", "sr: none; only in .*hr: 9;")]
)
def test_one_more_image_in_either_folder_is_refused(folders: tuple[Path, Path], extra: str, said: str) -> None:
    sr, hr = folders
    shutil.copy(sr / "001.png", {"sr": sr, "hr": hr}[extra] / "9.png")
    with pytest.raises(InputError, match=f"only in .*{said}"):
        score_folders(sr, hr)


def test_folders_that_do_not_match_are_refused_with_both_lists(folders: tuple[Path, Path]) -> None:
    sr, hr = folders
    (sr / "001.png").rename(sr / "other.png")
    with pytest.raises(InputError, match=r"only in .*sr: other; only in .*hr: 001;"):
        score_folders(sr, hr)


@pytest.mark.parametrize(("width", "height"), [(48, 47), (47, 48)])
def test_a_size_mismatch_names_the_file_and_both_sizes(folders: tuple[Path, Path], width: int, height: int) -> None:
    sr, hr = folders
    Image.open(sr / "001.png").crop((0, 0, width, height)).save(sr / "001.png")
    with pytest.raises(InputError, match=rf"001\.png: is {width} x {height} px, but .*001\.png is 48 x 48"):
        score_folders(sr, hr)


def test_suffixes_may_be_capital_and_hidden_files_are_no_images(folders: tuple[Path, Path]) -> None:
    sr, hr = folders
    (sr / "001.png").rename(sr / "001.PNG")
    (sr / "._001.png").write_bytes(b"what a Mac leaves")
    assert set(score_folders(sr, hr)["images"]) == {"000", "001", "002"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("psrn",)}, "psrn: cannot be measured here; give some of mse, psnr, ssim, "),
        ({"metrics": ("diversity",)}, "diversity: cannot be measured here"),
        ({"metrics": ()}, r"\(none\)"),
        ({"color": "lab"}, "give y or rgb"),
        ({"crop_border": -1}, "is below 0"),
    ],
)
def test_wrong_options_are_refused(folders: tuple[Path, Path], options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        score_folders(*folders, **options)


def test_an_empty_folder_and_twins_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        score_folders(tmp_path / "empty", folders[1])
    with pytest.raises(InputError, match="is no folder"):
        score_folders(tmp_path / "absent", folders[1])
    Image.open(folders[0] / "001.png").save(folders[0] / "001.bmp")
    with pytest.raises(InputError, match="share a name"):
        score_folders(*folders)


def test_an_image_too_small_for_ssim_is_named_and_left_out_of_the_mean(folders: tuple[Path, Path]) -> None:
    for folder in folders:
        Image.open(folder / "001.png").crop((0, 0, 14, 40)).save(folder / "001.png")
    result = score_folders(*folders, crop_border=2)
    assert math.isnan(result["images"]["001"]["ssim"]) and math.isfinite(result["images"]["001"]["psnr"])
    others = [result["images"][name]["ssim"] for name in ("000", "002")]
    assert result["mean"]["ssim"] == pytest.approx(np.mean(others))
    assert result["notes"] == ["SSIM: too small to measure, left out: 001."]


def test_where_nothing_can_be_measured_the_reason_stands_and_the_exit_code_is_1(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sr, hr = folders
    assert score(sr, hr, metrics=["psnr"]) == 0
    assert score(sr, hr, json=tmp_path / "a.json", crop_border=20, metrics=["ssim"]) == 1
    said = json.loads((tmp_path / "a.json").read_text())
    assert (said["mean"], said["missing"]) == ({"ssim": None}, {"ssim": "every image is too small for it."})
    assert "nothing could be measured" in capsys.readouterr().err


def test_scores_are_shown_where_their_file_cannot_be_written(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        score(*folders, json=tmp_path, metrics=["psnr"])
    assert "mean" in capsys.readouterr().out


def test_a_metric_without_its_network_says_how_to_get_it_and_the_others_are_measured(
    folders: tuple[Path, Path],
) -> None:
    result = score_folders(*folders, metrics=("psnr", "lpips-alex", "fid"), find=no_weights)
    assert set(result["mean"]) == {"psnr"}
    assert "harness weights fetch alexnet" in result["missing"]["lpips-alex"]
    assert "harness weights fetch inception-fid" in result["missing"]["fid"]
    console = Console(record=True, width=120)
    print_scores(console, result)
    assert "harness weights fetch alexnet" in console.export_text()


def test_fid_and_kid_of_folders_come_with_the_warning_about_small_sets(
    folders: tuple[Path, Path], inception_file: Path
) -> None:
    result = score_folders(*folders, metrics=("fid", "kid", "kid-paired"), find=lambda name: inception_file)
    assert result["mean"]["kid-paired"] > result["mean"]["kid"], "an image is most like its own restoration"
    assert result["mean"]["fid"] > 0 and math.isfinite(result["mean"]["kid"]) and result["deviation"]["kid"] > 0
    assert "FID on 3 images" in result["notes"][0]
    console = Console(record=True, width=120)
    print_scores(console, result)
    assert f"{result['mean']['kid']:.5f} ± {result['deviation']['kid']:.5f}" in console.export_text()


def test_names_are_printed_as_they_are_and_cut_no_number(folders: tuple[Path, Path], tmp_path: Path) -> None:
    names = ["photo[final]", "[bold]", "x" * 150]
    for folder in folders:
        for name, file in zip(names, sorted(folder.iterdir())):
            file.rename(folder / f"{name}.png")
        (folder / "a[").mkdir()
        (folder / f"{names[1]}.png").rename(folder / "a[" / "b].png")
    result = score_folders(*folders)
    console = Console(width=60, record=True, file=(tmp_path / "out").open("w"))
    print_scores(console, result)
    text = console.export_text()
    assert "photo[final]" in text and "a[/b]" in text and "…" not in text
    assert all(f"{scores['ssim']:.4f}" in text for scores in result["images"].values())
