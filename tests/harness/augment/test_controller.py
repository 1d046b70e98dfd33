import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.augment.build import build_augment
from harness.augment.config import AdaConfig, FixedAugmentConfig
from harness.augment.controller import Reduce

BATCH = 6


def ada(**values) -> AdaConfig:
    return AdaConfig.model_validate({"name": "ada", **values})


def logits_of(step: int, shape=(BATCH, 1)) -> torch.Tensor:
    """Mostly positive for the first half of the steps, mostly negative afterwards; some exactly zero."""
    generator = torch.Generator().manual_seed(step)
    shift = 1.5 if step < 60 else -0.5
    return (torch.randn(shape, generator=generator) + shift) * (torch.rand(shape, generator=generator) > 0.05)


def update(controller, logits, step, batch_size, reduce=None):
    """What a step of one micro-batch does to a controller."""
    controller.note(logits)
    if controller.ends_window(step):
        controller.move(batch_size, reduce)


def expected_p(steps: int, every: int, target: float, move: float, cap: float, start: float = 0.0) -> list[float]:
    p, signs, history = start, [], []
    for step in range(steps):
        signs += [(value > 0) - (value < 0) for value in logits_of(step).flatten().tolist()]
        if len(signs) == every * BATCH:
            r_t = sum(signs) / len(signs)
            p += move if r_t > target else -move if r_t < target else 0.0
            p, signs = min(max(p, 0.0), cap), []
        history.append(p)
    return history


@pytest.mark.parametrize(
    ("config", "move"),
    [
        (ada(rule="text", step=0.05, every=8, cap=0.2), 0.05),
        (ada(rule="text", step=5e-4, every=3, target=0.3, start_p=0.1), 5e-4),
        (ada(rule="paper", adjust_images=1000), BATCH * 4 / 1000),
    ],
)
def test_p_follows_the_rule_written_in_plain_python(config, move):
    controller = build_augment(config, 0).controller
    history = []
    for step in range(120):
        update(controller, logits_of(step), step, BATCH)
        history.append(controller.p.item())
    want = expected_p(120, config.every, config.target, move, config.cap, config.start_p)
    assert history == pytest.approx(want, abs=1e-5)
    assert max(history) > config.start_p and history[-1] < max(history)


def test_p_stays_within_zero_and_the_cap():
    controller = build_augment(ada(rule="text", step=0.3, every=1, cap=0.85), 0).controller
    for step in range(5):
        update(controller, torch.ones(4, 1), step, 4)
    assert controller.p.item() == pytest.approx(0.85)
    for step in range(9):
        update(controller, -torch.ones(4, 1), step, 4)
    assert controller.p.item() == 0.0


def test_r_t_at_the_target_leaves_p():
    controller = build_augment(ada(rule="text", every=1, target=0.5, start_p=0.4), 0).controller
    update(controller, torch.tensor([1.0, 2.0, 3.0, -4.0]), 0, 4)
    assert controller.r_t.item() == 0.5 and controller.p.item() == pytest.approx(0.4)


def test_logits_per_patch_count_each_patch():
    controller = build_augment(ada(rule="text", every=1), 0).controller
    logits = logits_of(0, (2, 1, 5, 5))
    update(controller, logits, 0, 2)
    assert controller.r_t.item() == pytest.approx(logits.sign().mean().item())


def test_micro_batches_of_a_step_count_like_one_batch():
    config = ada(rule="text", step=0.02, every=4)
    whole, parts = (build_augment(config, 0).controller for _ in range(2))
    for step in range(40):
        update(whole, logits_of(step), step, BATCH)
        for micro_batch in logits_of(step).split(2):
            parts.note(micro_batch)
        if parts.ends_window(step):
            parts.move(BATCH)
        assert parts.p.item() == whole.p.item() and parts.r_t.item() == whole.r_t.item()
    assert whole.p.item() > 0


def test_fixed_p_stays():
    controller = build_augment(FixedAugmentConfig(name="fixed", p=0.3), 0).controller
    for step in range(20):
        update(controller, logits_of(step), step, BATCH)
    assert controller.p.item() == pytest.approx(0.3)


def test_state_saved_within_a_window_continues_as_if_never_saved():
    config = ada(rule="text", step=0.01)
    whole, first = build_augment(config, 0), build_augment(config, 0)
    for step in range(30):
        update(whole.controller, logits_of(step), step, BATCH)
        if step < 13:
            update(first.controller, logits_of(step), step, BATCH)
    resumed = build_augment(config, 0)
    resumed.load_state_dict(first.state_dict())
    for step in range(13, 30):
        update(resumed.controller, logits_of(step), step, BATCH)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def summed_with(*others: torch.Tensor) -> Reduce:
    """The reduction of one rank, which adds what the others hold."""
    return lambda tensor: sum(others, tensor)


def test_ranks_agree_with_one_process_on_the_whole_batch():
    config = ada(rule="text", step=0.02, every=4)
    single, left, right = (build_augment(config, 0).controller for _ in range(3))
    for step in range(40):
        logits = logits_of(step)
        update(single, logits, step, BATCH)
        halves = logits[: BATCH // 2], logits[BATCH // 2 :]
        tallies = [c.tally + torch.tensor([h.sign().sum(), h.numel()]) for c, h in zip((left, right), halves)]
        update(left, halves[0], step, BATCH, summed_with(tallies[1]))
        update(right, halves[1], step, BATCH, summed_with(tallies[0]))
        assert left.p.item() == right.p.item() == single.p.item()


def test_a_save_within_a_window_of_three_ranks_moves_p_no_other_way():
    """3 of 5 and 6 of 10 signs are the target; thirds of them add up to a bit more."""
    config = ada(rule="text", step=0.02, every=2, target=0.6, start_p=0.4)
    first, second = torch.tensor([3.0, 5.0], dtype=torch.float64), torch.tensor([6.0, 10.0], dtype=torch.float64)
    saved, unsaved = (build_augment(config, 0).controller for _ in range(2))
    thirds = [first / 3] * 3
    saved.tally += thirds[0] + second
    signs, count = summed_with(*thirds[1:])(saved.tally).tolist()
    assert signs / count != 0.6, "or this would show nothing"
    saved.move(BATCH, summed_with(*thirds[1:]))
    unsaved.tally += first + second
    unsaved.move(BATCH, summed_with(torch.zeros(2)))
    assert saved.p.item() == unsaved.p.item() == pytest.approx(0.4)
    assert saved.r_t.item() == unsaved.r_t.item()


def test_pooled_window_of_one_rank_stands_for_all_ranks():
    config = ada(rule="text", step=0.02, every=4)
    left, right = (build_augment(config, 0).controller for _ in range(2))
    for step in range(2):
        update(left, torch.ones(3, 1), step, BATCH)
        update(right, -torch.ones(3, 1), step, BATCH)
    before, ones = right.tally.clone(), torch.ones(2, dtype=torch.float64)
    sums = iter([summed_with(ones), summed_with(before)])
    left.pool(lambda tensor: next(sums)(tensor))
    assert left.tally.tolist() == [0.0, 6.0]


class HostReads(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert str(func) not in ("aten._local_scalar_dense.default", "aten.equal.default", "aten.nonzero.default")
        return func(*args, **(kwargs or {}))


def test_update_reads_nothing_back_and_leaves_no_graph():
    controller = build_augment(ada(rule="text", every=2), 0).controller
    logits = torch.ones(2, 1, requires_grad=True)
    with HostReads():
        update(controller, logits, 0, 2)
        update(controller, logits, 1, 2)
    assert controller.p.item() > 0
    assert not controller.p.requires_grad and not controller.tally.requires_grad
