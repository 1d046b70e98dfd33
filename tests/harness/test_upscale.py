import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness import upscale as module
from harness.config import RunConfig
from harness.data.degrade import upscale_image
from harness.errors import CheckpointError, DataError, InputError
from harness.image_writing import write_picture
from harness.images import Picture, read_picture
from harness.models.build import build_generator
from harness.schema import parse
from harness.train.checkpoint import write_weights
from harness.upscale import Listener, Options, add_noise, enlarge_picture, interpolate, upscale
from harness.upscale_names import plan_jobs

RUN = {
    "scale": 2,
    "data": {"sources": [{"path": "nowhere"}], "patch_px": 16},
    "generator": {"name": "srresnet", "num_blocks": 1, "num_channels": 4, "start_as_skip": False},
    "phases": [
        {
            "name": "pixel",
            "iterations": 1,
            "batch_size": 1,
            "losses": [{"name": "l1"}],
            "generator_optimizer": {"learning_rate": 1e-4},
        }
    ],
}


def photograph(height: int = 20, width: int = 26) -> np.ndarray:
    small = np.random.default_rng(2).integers(0, 256, (height // 2 + 1, width // 2 + 1, 3), dtype=np.uint8)
    return upscale_image(small, 2)[:height, :width]


@pytest.fixture
def folder(tmp_path) -> Path:
    images = tmp_path / "in"
    write_picture(images / "a.png", Picture(photograph()))
    write_picture(images / "deep down" / "ünï 'b'.png", Picture(photograph(9, 12)))
    return images


@pytest.fixture
def export(tmp_path) -> Path:
    """A finished run's folder with an exported generator."""
    config = parse(RunConfig, RUN, "test")
    torch.manual_seed(0)
    generator = build_generator(config.generator, config.scale)
    run = tmp_path / "run"
    run.mkdir()
    metadata = {"harness": json.dumps({"config": config.model_dump(mode="json")})}
    write_weights(run / "generator.safetensors", generator.state_dict(), metadata)
    return run


def bicubic(scale: int = 2) -> Options:
    return Options(method="bicubic", scale=scale)


def test_folder_is_upscaled_with_its_subfolders(folder, tmp_path):
    summary = upscale([str(folder)], tmp_path / "out", bicubic(3))
    assert [path.relative_to(tmp_path / "out").as_posix() for path in summary.written] == [
        "a.png",
        "deep down/ünï 'b'.png",
    ]
    assert np.array_equal(read_picture(tmp_path / "out" / "a.png").pixels, upscale_image(photograph(), 3))
    assert summary.failures == []


def test_folders_that_are_linked_are_upscaled_too_but_not_in_circles(folder, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "linked").symlink_to(folder)
    (folder / "back").symlink_to(tmp_path / "links")
    written = upscale([str(tmp_path / "links")], tmp_path / "out", bicubic()).written
    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == [
        "linked/a.png",
        "linked/deep down/ünï 'b'.png",
    ]


def test_file_becomes_the_named_file_and_patterns_are_expanded(folder, tmp_path):
    assert upscale([str(folder / "a.png")], tmp_path / "b.tif", bicubic()).written == [tmp_path / "b.tif"]
    found = upscale([str(folder / "**" / "*.png")], tmp_path / "out", bicubic()).written
    assert sorted(path.name for path in found) == ["a.png", "ünï 'b'.png"]


def test_brackets_in_a_name_are_no_pattern(tmp_path):
    write_picture(tmp_path / "a[1].png", Picture(photograph()))
    assert upscale([str(tmp_path / "a[1].png")], tmp_path / "out", bicubic()).written == [tmp_path / "out" / "a[1].png"]


def test_names_that_would_collide_stay_apart(tmp_path):
    for name in ("x.png", "x.tif", "sub/x.png"):
        write_picture(tmp_path / "in" / name, Picture(photograph(4, 4)))
    inputs = [str(tmp_path / "in" / name) for name in ("x.png", "x.tif", "sub/x.png")]
    targets = [job.target.name for job in plan_jobs(inputs, tmp_path / "out", "png")]
    assert len(set(targets)) == 3 and targets[:2] == ["x.png", "x.tif.png"]
    again = {job.source.name: job.target.name for job in plan_jobs(inputs[1::-1], tmp_path / "out", "png")}
    assert again == {"x.png": "x.png", "x.tif": "x.tif.png"}  # whatever comes first


def test_methods_enlarge_alpha_as_they_do_colour(tmp_path):
    picture = Picture(photograph(), photograph()[..., 0])
    write_picture(tmp_path / "a.png", picture)
    upscale([str(tmp_path / "a.png")], tmp_path / "b.png", Options(method="nearest", scale=2))
    found = read_picture(tmp_path / "b.png").alpha
    assert found is not None and np.array_equal(found, np.kron(picture.alpha, np.ones((2, 2), np.uint8)))


def test_runs_generator_upscales_as_called_directly(folder, export, tmp_path):
    upscale([str(folder / "a.png")], tmp_path / "out.png", Options(checkpoint=export, tile_px=16))
    config = parse(RunConfig, RUN, "test")
    torch.manual_seed(0)
    generator = build_generator(config.generator, 2).eval()
    with torch.no_grad():
        output = generator(torch.from_numpy(photograph()).permute(2, 0, 1)[None].float() / 255)[0]
    want = (output.clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(read_picture(tmp_path / "out.png").pixels - want).max() <= 1


def test_tile_progress_and_image_progress_are_told(folder, export, tmp_path):
    images: list[tuple[int, int]] = []
    tile_counts: list[tuple[int, int]] = []
    listener = Listener(
        images=lambda done, total, path: images.append((done, total)),
        tiles=lambda done, total: tile_counts.append((done, total)),
    )
    upscale([str(folder)], tmp_path / "out", Options(checkpoint=export, tile_px=16), listener)
    assert images == [(0, 2), (1, 2), (2, 2)]
    assert (4, 4) in tile_counts and tile_counts[-1] == (1, 1)


def test_alpha_grey_depth_orientation_and_profile_survive(tmp_path, export):
    block = Image.Exif()
    block[0x0112], block[0x010F] = 6, "a camera"
    rgba = np.dstack([photograph(8, 10), photograph(8, 10)[..., 0]])
    Image.fromarray(rgba).save(tmp_path / "rgba.png", exif=block.tobytes(), icc_profile=b"a profile")
    deep = Picture(photograph(8, 10)[..., 0].astype(np.uint16) * 257)
    write_picture(tmp_path / "deep.png", deep)
    inputs = [str(tmp_path / "rgba.png"), str(tmp_path / "deep.png")]
    first, second = upscale(inputs, tmp_path / "out", Options(checkpoint=export)).written
    picture = read_picture(first)
    assert picture.pixels.shape == (20, 16, 3)  # upright: 10 x 8
    assert np.array_equal(picture.alpha, upscale_image(np.rot90(rgba[..., 3], -1).copy(), 2))
    assert picture.icc_profile == b"a profile"
    with Image.open(first) as image:
        assert image.getexif().get(0x0112, 1) == 1 and image.getexif()[0x010F] == "a camera"
    grey = read_picture(second)
    assert grey.pixels.shape == (16, 20) and grey.pixels.dtype == np.uint16 and len(np.unique(grey.pixels)) > 100


def test_unreadable_file_is_reported_and_the_rest_go_on(folder, tmp_path):
    (folder / "0 broken.png").write_bytes((folder / "a.png").read_bytes()[:100])
    said: list[str] = []
    summary = upscale([str(folder)], tmp_path / "out", bicubic(), Listener(fail=said.append))
    assert len(summary.written) == 2
    assert [failure.source.name for failure in summary.failures] == ["0 broken.png"]
    assert "0 broken.png" in said[0] and not (tmp_path / "out" / "0 broken.png").exists()


def test_interrupted_write_leaves_nothing(folder, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        upscale([str(folder / "a.png")], tmp_path / "out", bicubic())
    assert list((tmp_path / "out").iterdir()) == []


def test_samples_differ_and_are_the_same_again(folder, export, tmp_path):
    options = Options(checkpoint=export, samples=3, noise_std=0.05)
    written = upscale([str(folder / "a.png")], tmp_path / "one", options).written
    assert [path.name for path in written] == ["a_sample0.png", "a_sample1.png", "a_sample2.png"]
    pixels = [read_picture(path).pixels for path in written]
    assert not np.array_equal(pixels[0], pixels[1]) and not np.array_equal(pixels[1], pixels[2])
    again = upscale([str(folder / "a.png")], tmp_path / "two", options).written
    assert all(np.array_equal(read_picture(path).pixels, old) for path, old in zip(again, pixels))


def test_noise_has_the_asked_deviation():
    grey = np.full((200, 200, 3), 128, np.uint8)
    for pixels, levels in ((grey, 255), (grey.astype(np.uint16) * 257, 65535)):
        difference = add_noise(pixels, 0.05, 0, 0).astype(float) - pixels
        assert difference.std() / levels == pytest.approx(0.05, rel=0.02)
        assert abs(difference.mean()) / levels < 1e-3


def test_another_seed_or_sample_draws_other_noise():
    grey = np.full((8, 8, 3), 128, np.uint8)
    drawn = {add_noise(grey, 0.05, seed, sample).tobytes() for seed in (0, 1) for sample in (0, 1)}
    assert len(drawn) == 4


def test_grey_is_the_nearest_level_to_the_mean_of_the_networks_channels():
    picture = Picture(np.zeros((1, 2), np.uint8))
    channels = np.array([[[10, 11, 11], [10, 10, 11]]], np.uint8)
    assert enlarge_picture(picture, lambda pixels, progress: channels, 1).pixels.tolist() == [[11, 10]]


def test_deep_interpolation_is_rounded_to_the_nearest_of_65536_levels():
    deep = photograph(9, 12).astype(np.uint16) * 257
    exact = torch.from_numpy(deep.astype(np.float64)).permute(2, 0, 1)[None]
    exact = torch.nn.functional.interpolate(exact, scale_factor=4, mode="bilinear")[0].permute(1, 2, 0).numpy()
    assert np.abs(interpolate(deep, 4, "bilinear") - exact).max() <= 0.5 + 1e-5


@pytest.mark.parametrize("method", ["bicubic", "bilinear", "nearest"])
def test_interpolation_in_bands_equals_the_whole_images(method, monkeypatch):
    monkeypatch.setattr(module, "_BAND_ROWS", 7)
    image = photograph(45, 30)
    assert np.array_equal(interpolate(image, 3, method), upscale_image(image, 3, method))
    deep = interpolate(image.astype(np.uint16) * 257, 3, method)
    assert np.abs(deep / 257 - upscale_image(image, 3, method)).max() < 1.6  # rounded once instead of twice


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(), "got neither of --checkpoint and --method"),
        (Options(checkpoint=Path("x"), method="bicubic", scale=2), "got both of --checkpoint and --method"),
        (Options(method="bicubic", scale=2, tile_px=64), "--tile, --device and --precision are for a network"),
        (Options(method="bicubic", scale=2, noise_std=float("nan")), "--noise nan is not in"),
        (Options(method="bicubic", scale=2, noise_std=2), "--noise 2 is not in"),
        (Options(method="bicubic"), "needs --scale"),
        (Options(method="bicubik", scale=2), "--method bicubik is unknown"),  # type: ignore[arg-type]
        (Options(method="bicubic", scale=2, precision="fp16"), "choose one of fp32, bf16"),  # type: ignore[arg-type]
        (Options(method="bicubic", scale=2, format="gif"), "choose one of png"),  # type: ignore[arg-type]
        (Options(method="bicubic", scale=2, samples=0), "--samples"),
        (Options(method="bicubic", scale=2, samples=2), "would be the same"),
        (Options(checkpoint=Path("absent")), "no such file or folder"),
    ],
)
def test_contradictory_options_are_one_sentence(folder, tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        upscale([str(folder)], tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_wrong_places_are_one_sentence(folder, tmp_path, export):
    with pytest.raises(InputError, match="no image there"):
        upscale([str(tmp_path / "absent*.png")], tmp_path / "out", bicubic())
    with pytest.raises(InputError, match="would be overwritten"):
        upscale([str(folder)], folder, bicubic())
    with pytest.raises(InputError, match="give a folder"):
        upscale([str(folder)], folder / "a.png", bicubic())
    with pytest.raises(InputError, match="upscales by 2, not 4"):
        upscale([str(folder)], tmp_path / "out", Options(checkpoint=export, scale=4))
    with pytest.raises(InputError, match="is not there"):
        upscale([str(folder)], tmp_path / "out", Options(checkpoint=export, device="cuda:77"))


def test_format_that_cannot_hold_alpha_fails_for_that_file_alone(tmp_path):
    write_picture(tmp_path / "in" / "a.png", Picture(photograph(), photograph()[..., 0]))
    write_picture(tmp_path / "in" / "b.png", Picture(photograph()))
    options = Options(method="nearest", scale=2, format="jpg")
    summary = upscale([str(tmp_path / "in")], tmp_path / "out", options)
    assert [path.name for path in summary.written] == ["b.jpg"] and "alpha" in summary.failures[0].reason


def test_an_image_that_its_format_could_not_hold_once_larger_is_refused_before_it_is_computed(tmp_path, monkeypatch):
    write_picture(tmp_path / "in" / "a.png", Picture(np.zeros((2, 4096, 3), np.uint8)))
    monkeypatch.setattr("harness.upscale.enlarge_picture", lambda *_: pytest.fail("computed"))
    summary = upscale([str(tmp_path / "in")], tmp_path / "out", Options(method="nearest", scale=4, format="webp"))
    assert "at most 16,383 px a side, not 16,384" in summary.failures[0].reason


def test_another_projects_file_upscales_as_spandrel_does(tmp_path, folder):
    import spandrel
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(1)
    reference = ESRGAN(num_filters=8, num_blocks=1, scale=4)
    file = tmp_path / "theirs.pth"
    torch.save(reference.state_dict(), file)
    found = spandrel.ModelLoader().load_from_file(file)
    image = torch.from_numpy(photograph()).permute(2, 0, 1)[None].float() / 255
    want = (found(image)[0] * 255).round().permute(1, 2, 0).numpy()
    upscale([str(folder / "a.png")], tmp_path / "out.png", Options(checkpoint=file))
    assert np.abs(read_picture(tmp_path / "out.png").pixels - want).max() <= 1


def test_network_that_only_spandrel_knows_is_used(tmp_path, folder):
    import spandrel
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(1)
    file = tmp_path / "compact.pth"
    torch.save({"params": Compact(num_feat=8, num_conv=2, upscale=2).state_dict()}, file)
    found = spandrel.ModelLoader().load_from_file(file)
    image = torch.from_numpy(photograph()).permute(2, 0, 1)[None].float() / 255
    want = (found(image)[0] * 255).round().permute(1, 2, 0).numpy()
    upscale([str(folder / "a.png")], tmp_path / "out.png", Options(checkpoint=file, tile_px=16))
    assert np.abs(read_picture(tmp_path / "out.png").pixels - want).max() <= 1


def test_files_that_are_no_weights_are_one_sentence(tmp_path, folder):
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    for name, words in (("text.pth", "plain tensors"), ("other.pth", r"no known architecture.*\['a'\]")):
        with pytest.raises(CheckpointError, match=words):
            upscale([str(folder)], tmp_path / "out", Options(checkpoint=tmp_path / name))


def test_nothing_in_a_weights_file_is_executed(tmp_path, folder):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch '{tmp_path}/executed'",)

    for suffix in (".pth", ".pt", ".ckpt"):
        torch.save({"params": Evil()}, tmp_path / f"evil{suffix}")
        with pytest.raises(CheckpointError):
            upscale([str(folder)], tmp_path / "out", Options(checkpoint=tmp_path / f"evil{suffix}"))
    assert not (tmp_path / "executed").exists()


def test_unwritable_folder_is_reported_for_the_file(folder, tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises((InputError, DataError), match="give a folder"):
        upscale([str(folder)], tmp_path / "out", bicubic())


def test_output_without_room_in_memory_is_refused_before_it_is_made(folder, tmp_path):
    summary = upscale([str(folder)], tmp_path / "out", Options(method="nearest", scale=100_000))
    assert not summary.written and len(summary.failures) == len(list(folder.rglob("*.png")))
    assert "GiB of memory" in summary.failures[0].reason and "give a smaller scale" in summary.failures[0].reason


def test_torchs_advice_to_run_a_file_is_not_passed_on(tmp_path, folder):
    torch.save({"params": torch.nn.Linear(1, 1)}, tmp_path / "pickled.pth")
    (tmp_path / "text.pth").write_text("hello")
    for name, words in (
        ("pickled.pth", "asks for torch.nn.modules.linear.Linear, which is not run"),
        ("text.pth", "damaged"),
    ):
        with pytest.raises(CheckpointError, match=words) as caught:
            upscale([str(folder)], tmp_path / "out", Options(checkpoint=tmp_path / name))
        assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)
