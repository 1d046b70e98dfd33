"""How long the augmentation takes: `python -m harness.bench.augment`."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from harness.augment.build import build_augment
from harness.augment.config import FixedAugmentConfig
from harness.schema import parse


def time_augment(batch_size: int, size_px: int, p: float, repeats: int = 7, device: str = "cpu") -> dict[str, float]:
    """Median milliseconds for a batch of RGB images: forward, and forward with backward."""
    augment = build_augment(parse(FixedAugmentConfig, {"name": "fixed", "p": p}, "bench"), seed=0).to(device)
    position = torch.arange(batch_size, device=device)
    images = torch.rand(batch_size, 3, size_px, size_px, device=device)

    def forward() -> None:
        augment(images, position, "real")

    def forward_backward() -> None:
        augment(images.clone().requires_grad_(), position, "real").sum().backward()

    return {
        "forward_ms": _median_ms(forward, repeats, device),
        "forward_backward_ms": _median_ms(forward_backward, repeats, device),
    }


def _median_ms(call: Callable[[], None], repeats: int, device: str) -> float:
    call()
    times = []
    for _ in range(repeats):
        _finish(device)
        start = time.perf_counter()
        call()
        _finish(device)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def _finish(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description="Times the discriminator augmentation.")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=128, help="edge of the images in pixels")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(f"{options.batch_size} x {options.size} px, {torch.get_num_threads()} threads, {options.device}")
    for p in (0.0, 0.3, 0.6, 0.85):
        times = time_augment(options.batch_size, options.size, p, options.repeats, options.device)
        print(f"p {p:.2f}  forward {times['forward_ms']:6.1f} ms  with backward {times['forward_backward_ms']:6.1f} ms")


if __name__ == "__main__":
    main()
