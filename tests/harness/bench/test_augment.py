from harness.bench.augment import time_augment


def test_both_times_are_measured():
    times = time_augment(batch_size=2, size_px=8, p=0.5, repeats=3)
    assert times["forward_ms"] > 0 and times["forward_backward_ms"] > 0
