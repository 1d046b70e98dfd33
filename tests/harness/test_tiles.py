import numpy as np
import pytest
import torch
from torch import nn

from harness import footprint, memory, tiles
from harness.data.degrade import upscale_image
from harness.errors import InputError
from harness.models.build import build_generator
from harness.models.config import ResidualCNNConfig, RRDBConfig, SRResNetConfig, UNetConfig
from harness.networks import Network, PlacedSkip, _own
from harness.schema import parse
from harness.tiles import TiledNetwork, choose_tile_px, spans

CPU = torch.device("cpu")
SMALL = {"num_blocks": 2, "num_channels": 8}


def photograph(height: int, width: int, dtype=np.uint8) -> np.ndarray:
    """Smooth noise, as rich as a photograph."""
    small = np.random.default_rng(5).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    image = upscale_image(small, 4)[:height, :width]
    return image if dtype == np.uint8 else image.astype(np.uint16) * 257


def network(section, scale: int = 2, **values) -> Network:
    torch.manual_seed(3)
    generator = build_generator(parse(section, values, "test"), scale).eval().requires_grad_(False)
    for layer in generator.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, 0.2)
    generator.layers.last.weight.mul_(0.2)
    return _own(generator, scale)


def tiled(net: Network, tile_px: int, overlap_px: int | None = None, **options) -> TiledNetwork:
    return TiledNetwork(net, CPU, tile_px, overlap_px, **options)


@pytest.mark.parametrize("size", [1, 7, 16, 17, 33, 49, 64, 100, 257])
@pytest.mark.parametrize(
    ("tile_px", "overlap_px", "align_px"), [(16, 16, 1), (16, 80, 1), (16, 32, 8), (16, 20, 8), (24, 8, 1), (48, 0, 1)]
)
def test_tiles_answer_for_every_pixel_once(size, tile_px, overlap_px, align_px):
    scale = 3
    row = spans(size, tile_px, overlap_px, align_px)
    assert [s.end for s in row[:-1]] == [s.start for s in row[1:]] and (row[0].start, row[-1].end) == (0, size)
    total = torch.zeros(size * scale)
    for span in row:
        assert span.read_start <= span.write_start and span.write_end <= span.read_end <= size
        assert span.read_start % align_px == 0
        total[span.write_start * scale : span.write_end * scale] += span.weights(scale)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-6)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (SRResNetConfig, SMALL),
        (SRResNetConfig, {**SMALL, "skip": "bicubic_align_corners", "batch_norm": "after_blocks"}),
        (SRResNetConfig, {**SMALL, "output": "tanh"}),
        (RRDBConfig, {"name": "rrdb", "num_blocks": 1, "num_channels": 8, "growth": 4}),
        (ResidualCNNConfig, {"name": "residual_cnn", "num_channels": 4}),
        (UNetConfig, {"name": "unet", "num_channels": 4, "depth": 3}),
    ],
)
@pytest.mark.parametrize("shape", [(61, 47), (5, 90), (40, 40)])
def test_tiled_output_equals_the_whole_images_within_one_level(section, values, shape):
    net, image = network(section, **values), photograph(*shape)
    whole = tiled(net, 512)(image)
    parts = tiled(net, 16)(image)
    assert whole.shape == (shape[0] * 2, shape[1] * 2, 3)
    assert np.abs(whole.astype(int) - parts).max() <= 1
    assert whole.std() > 10


def test_whole_image_equals_calling_the_network():
    net, image = network(SRResNetConfig, **SMALL), photograph(30, 20)
    want = net.module(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0].clamp(0, 1) * 255
    assert np.array_equal(tiled(net, 64)(image), want.round().permute(1, 2, 0).numpy().astype(np.uint8))


def test_skip_that_depends_on_the_images_size_equals_torchs():
    net = network(SRResNetConfig, **SMALL, skip="bicubic_align_corners")
    assert isinstance(net.module.skip, PlacedSkip)
    net.module.layers = nn.Sequential()  # no contribution of its own
    net.module.layers.forward = lambda x: torch.zeros(())  # type: ignore[method-assign]
    image = photograph(37, 41)
    up = nn.Upsample(scale_factor=2, mode="bicubic", align_corners=True)
    want = up(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0].clamp(0, 1).permute(1, 2, 0).numpy()
    assert np.abs(tiled(net, 16)(image) - want * 255).max() < 0.51


def test_seams_would_show_without_overlap():
    net, image = network(SRResNetConfig, **SMALL), photograph(64, 64)
    whole = tiled(net, 512)(image).astype(int)
    assert np.abs(whole - tiled(net, 16, overlap_px=0)(image)).max() > 1


def test_deep_images_stay_deep():
    net = network(SRResNetConfig, **SMALL)
    deep = tiled(net, 16)(photograph(40, 40, np.uint16))
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - tiled(net, 16)(photograph(40, 40)).astype(float)).max() < 0.51
    assert len(np.unique(deep)) > 256


def test_tile_is_halved_and_said_so_when_memory_runs_out():
    net, said = network(SRResNetConfig, **SMALL), []
    forward, seen = net.module.forward, []

    def limited(tile_BCHW):
        seen.append(tile_BCHW.shape[-1])
        if tile_BCHW.shape[-1] > 64:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return forward(tile_BCHW)

    image = photograph(70, 130)
    want = tiled(net, 32)(image)
    net.module.forward = limited  # type: ignore[method-assign]
    upscaler = tiled(net, 128, say=said.append)
    assert np.abs(upscaler(image).astype(int) - want).max() <= 1
    assert said == ["out of memory: going on with tiles of 64 px", "out of memory: going on with tiles of 32 px"]
    assert upscaler.tile_px == 32  # later images start with what fits

    net.module.forward = lambda tile: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(InputError, match="does not fit into memory"):
        tiled(net, 64)(image)


def test_other_errors_of_a_network_are_not_swallowed():
    net = network(SRResNetConfig, **SMALL)
    net.module.forward = lambda tile: (_ for _ in ()).throw(RuntimeError("shapes differ"))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="shapes differ"):
        tiled(net, 64)(photograph(20, 20))


def test_output_that_is_not_finite_is_refused():
    net = network(SRResNetConfig, **SMALL)
    net.module.layers.last.bias[0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        tiled(net, 64)(photograph(20, 20))


def test_too_small_a_tile_is_refused():
    with pytest.raises(InputError, match="at least 16"):
        tiled(network(SRResNetConfig, **SMALL), 8)


def test_chosen_tile_grows_with_the_free_memory_and_shrinks_with_the_network(monkeypatch):
    small, large = network(SRResNetConfig, **SMALL), network(SRResNetConfig, num_blocks=2, num_channels=48)
    chosen = {}
    for free in (2**24, 2**28, 2**40):
        monkeypatch.setattr(tiles, "free_bytes", lambda device, free=free: free)
        chosen[free] = [choose_tile_px(net, CPU) for net in (small, large)]
        assert chosen[free][0] >= chosen[free][1] >= 16
    assert chosen[2**24][1] < chosen[2**28][1] <= chosen[2**40][1] <= 512
    assert chosen[2**24][0] > chosen[2**24][1]


def test_bytes_per_pixel_are_those_of_the_largest_live_tensors():
    stack = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)).requires_grad_(False)
    with torch.inference_mode():
        measured = footprint.peak_bytes_per_pixel(stack, CPU)
    assert measured == pytest.approx(4 * (16 + 8), rel=0.01)  # the input was there before


def test_free_memory_respects_the_control_groups_limit(tmp_path):
    job = tmp_path / "slurm" / "job"
    job.mkdir(parents=True)
    (tmp_path / "membership").write_text("0::/slurm/job\n")
    (job / "memory.max").write_text("max\n")
    (job / "memory.current").write_text("100\n")
    for group in (job, job.parent):
        (group / "memory.stat").write_text("anon 5\nfile 9\ninactive_file 0\nactive_file 0\n")
    (tmp_path / "slurm" / "memory.max").write_text("1000\n")
    (tmp_path / "slurm" / "memory.current").write_text("300\n")
    assert memory._left_in_control_group(tmp_path, tmp_path / "membership") == 700
    assert memory._left_in_control_group(tmp_path, tmp_path / "absent") > 2**60
    assert 0 < memory.free_bytes(CPU) < 2**45


def test_what_was_read_from_files_is_memory_that_can_be_had(tmp_path):
    """A job that has read its data holds them in memory up to its limit, until it needs that for something else."""
    (tmp_path / "membership").write_text("0::/\n")
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("990\n")
    (tmp_path / "memory.stat").write_text("anon 290\nfile 700\ninactive_file 450\nactive_file 230\nshmem 20\n")
    assert memory._left_in_control_group(tmp_path, tmp_path / "membership") == 1000 - 990 + 680
