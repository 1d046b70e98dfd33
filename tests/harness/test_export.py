import json
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import spandrel
import torch
from torch import nn

from harness.config import RunConfig
from harness.errors import InputError
from harness.export import FilterSkip, export
from harness.models.build import build_generator
from harness.models.skip import GlobalSkip
from harness.networks import open_network
from harness.schema import parse
from harness.train.checkpoint import write_weights
from harness.train.start import load_generator

PHASE = {
    "name": "pixel",
    "iterations": 1,
    "batch_size": 1,
    "losses": [{"name": "l1"}],
    "generator_optimizer": {"learning_rate": 1e-4},
}
RRDB = {"name": "rrdb", "num_blocks": 1, "num_channels": 8}
MSR = {"name": "msrresnet", "num_blocks": 2, "num_channels": 8}


def finished_run(folder: Path, generator: dict, scale: int = 4) -> tuple[Path, nn.Module]:
    data = {"sources": [{"path": "nowhere"}], "patch_px": 32}
    config = parse(RunConfig, {"scale": scale, "data": data, "generator": generator, "phases": [PHASE]}, "test")
    torch.manual_seed(4)
    network = build_generator(config.generator, scale).eval().requires_grad_(False)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, 0.2)
            nn.init.normal_(layer.bias, std=0.05)
    folder.mkdir()
    metadata = {"harness": json.dumps({"config": config.model_dump(mode="json")})}
    write_weights(folder / "generator.safetensors", network.state_dict(), metadata)
    return folder, network


def image(height: int = 21, width: int = 30, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("format", "suffix"), [("basicsr", ".pth"), ("basicsr", ".safetensors"), ("esrgan-old", ".pth")]
)
def test_exported_rrdb_computes_the_same_in_spandrel(tmp_path, format, suffix):
    run, network = finished_run(tmp_path / "run", RRDB)
    path = export(run, format, tmp_path / f"out{suffix}")
    found = spandrel.ModelLoader().load_from_file(path)
    assert (found.architecture.name, found.scale) == ("ESRGAN", 4)
    assert torch.allclose(found.model(image()), network(image()), atol=1e-5)


@pytest.mark.parametrize("generator", [RRDB, MSR])
def test_exported_basicsr_file_reads_back_as_the_same_network(tmp_path, generator):
    run, network = finished_run(tmp_path / "run", generator)
    path = export(run, "basicsr", tmp_path / "out.pth")
    stored = torch.load(path, weights_only=True)
    assert set(stored) == {"params", "params_ema"} and "conv_first.weight" in stored["params"]
    assert torch.allclose(open_network(path).module(image()), network(image()), atol=1e-5)


def test_safetensors_carries_its_configuration(tmp_path):
    run, network = finished_run(tmp_path / "run", {"name": "espcn"}, scale=2)
    path = export(run, "safetensors", tmp_path / "out.safetensors")
    read, config = load_generator(path)
    assert config.generator.name == "espcn" and torch.equal(read(image()), network(image()))


slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("generator", "scale"),
    [
        ({"name": "srresnet", "num_blocks": 1, "num_channels": 8, "start_as_skip": False}, 4),
        ({"name": "srresnet", "num_blocks": 1, "num_channels": 4, "skip": "bicubic_align_corners"}, 2),
        ({"name": "unet", "num_channels": 4, "depth": 2}, 2),
        slow({**MSR, "output": "tanh"}, 2),
        slow({"name": "srcnn", "num_channels": [8, 4]}, 2),
        slow({"name": "espcn", "num_channels": [8, 4]}, 4),
        slow({"name": "srresnet", "num_blocks": 1, "num_channels": 4, "batch_norm": "everywhere"}, 8),
        slow({"name": "residual_cnn", "num_channels": 4}, 2),
        (RRDB, 4),
    ],
)
def test_onnx_file_computes_the_same_at_any_size(tmp_path, generator, scale):
    run, network = finished_run(tmp_path / "run", generator, scale)
    path = export(run, "onnx", tmp_path / "out.onnx")
    assert [p.name for p in tmp_path.iterdir() if p.name != "run"] == ["out.onnx"]  # one file, nothing beside it
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch, height, width in ((1, 21, 30), (3, 9, 64), (1, 2, 5)):
        lr_image = image(height, width, batch)
        (output,) = session.run(["sr_image"], {"lr_image": lr_image.numpy()})
        assert output.shape == (batch, 3, height * scale, width * scale)
        assert np.abs(output - network(lr_image).numpy()).max() < 1e-4


def test_an_onnx_file_that_runs_at_one_size_only_is_refused_and_not_left(tmp_path, monkeypatch):
    run, _ = finished_run(tmp_path / "run", {"name": "espcn", "num_channels": [8, 4]}, scale=2)
    whole = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *a, dynamic_shapes, **k: whole(*a, dynamic_shapes=None, **k))
    with pytest.raises(InputError, match="does not run at another size than it was made with"):
        export(run, "onnx", tmp_path / "out.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_skip_as_a_filter_equals_the_skip(kind, scale):
    for size in ((1, 1), (2, 9), (20, 13)):
        want = GlobalSkip(kind, scale)(image(*size))
        assert torch.allclose(FilterSkip(kind, scale)(image(*size)), want, atol=1e-6)


def test_what_cannot_be_exported_is_one_sentence(tmp_path):
    run, _ = finished_run(tmp_path / "run", {"name": "espcn"})
    for format, out, words in (
        ("basicsr", "a.pth", "holds msrresnet or rrdb, not a espcn"),
        ("esrgan-old", "a.pth", "choose another"),
        ("tensorflow", "a.pb", "choose one of basicsr"),
        ("onnx", "a.pth", "ending in .onnx"),
    ):
        with pytest.raises(InputError, match=words):
            export(run, format, tmp_path / out)
    double, _ = finished_run(tmp_path / "double", RRDB, scale=2)
    with pytest.raises(InputError, match="basicsr-rrdb knows only scale 4, not 2"):
        export(double, "basicsr", tmp_path / "a.pth")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["double", "run"]
    with pytest.raises(InputError, match="cannot be written"):
        export(run, "safetensors", run / "generator.safetensors" / "a.safetensors")


def test_name_is_chosen_where_none_is_given(tmp_path, monkeypatch):
    run, _ = finished_run(tmp_path / "a run", RRDB)
    monkeypatch.chdir(tmp_path)
    assert export(run, "basicsr") == Path("a run-basicsr.pth") and Path("a run-basicsr.pth").is_file()
