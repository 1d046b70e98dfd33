"""More than two ranks: a sum of three numbers depends on its order, and a resumed run keeps to it."""

from __future__ import annotations

import shutil

from harness.errors import EXIT_DONE

STEPS = 4


def test_three_ranks_resume_bitwise_although_ddp_lays_its_buckets_out_anew(launcher, recipe, tmp_path):
    """Networks of several buckets; a run that goes on from its own checkpoint of half the way."""
    phase = {**recipe["phases"][1], "iterations": STEPS, "batch_size": 6}
    wide = {**recipe, "phases": [phase], "validation": {"max_images": 0}}
    wide |= {"checkpoint": {"every": STEPS // 2, "keep": 9}, "discriminator": {"name": "vgg", "num_channels": 16}}
    wide |= {"generator": {"name": "srresnet", "num_blocks": 2, "num_channels": 64}}
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert launcher.finish(launcher.run_file(wide, whole), 3) == [EXIT_DONE] * 3

    half, end = (f"checkpoints/step_{step:09d}" for step in (STEPS // 2, STEPS))
    shutil.copytree(whole / half, resumed / half)
    assert launcher.finish(launcher.run_file(wide, resumed), 3) == [EXIT_DONE] * 3
    for name in ("generator", "discriminator"):
        file = f"{end}/{name}.safetensors"
        assert (resumed / file).read_bytes() == (whole / file).read_bytes()
