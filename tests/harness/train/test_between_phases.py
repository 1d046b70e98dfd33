"""What one phase leaves behind does not reach the next, and what is wrong on some ranks is refused on all."""

from __future__ import annotations

import errno
import json
import threading
import time
from pathlib import Path

import pytest
import torch

from harness.config import RunConfig
from harness.errors import InputError, TrainingError
from harness.losses import adversarial
from harness.models.build import build_discriminator
from harness.models.config import ConvDiscriminatorConfig
from harness.train import loop, steps
from harness.train import phase as phase_module
from harness.train.checkpoint import Checkpoint, Snapshot
from harness.train.durable import HashedFile, write_durably
from harness.train.fast.fuse import Compiler
from harness.train.fit import check_batch
from harness.train.log import RunLog
from harness.train.nets import Nets
from harness.train.phase import Phase
from harness.train.ranks import Ranks
from harness.train.run import Run, Stretch
from harness.train.steps import train_step
from harness.train.stop import AGREE_EVERY_S, StopAgreement, StopFlag
from harness.train.watch import NonFinite
from harness.train.writer import CheckpointWriter


@pytest.fixture
def ranks(config, tmp_path):
    made = Ranks(config, str(tmp_path))
    yield made
    made.close()


def test_frozen_layers_have_no_gradients_of_the_phase_before(recipe, ranks):
    """Clipping takes the norm of all gradients: a process that begins here would have none of them."""
    phases = [dict(recipe["phases"][0]), {**recipe["phases"][0], "name": "last", "train_last": 1}]
    config = RunConfig.model_validate({**recipe, "phases": phases})
    nets = Nets(config, ranks)
    for number in (0, 1):
        phase = Phase(config, number, nets, ranks)
        train_step(phase, next(phase.patches(phase.first_step)), phase.first_step, log_norms=False)
        phase.close()
    assert all((p.grad is not None) == p.requires_grad for p in nets.generator.parameters())
    assert any(not p.requires_grad for p in nets.generator.parameters())


def test_what_a_phase_froze_is_trained_by_the_next(recipe, ranks):
    """As in a process of its own, where nothing was frozen before."""
    phases = [{**recipe["phases"][0], "train_last": 1}, {**recipe["phases"][0], "name": "all"}]
    config = RunConfig.model_validate({**recipe, "phases": phases})
    nets = Nets(config, ranks)
    norms = [module for module in nets.generator.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for number, is_frozen in ((0, True), (1, False)):
        Phase(config, number, nets, ranks).close()
        assert any(not p.requires_grad for p in nets.generator.parameters()) is is_frozen
        assert norms and all(norm.training is not is_frozen for norm in norms)


def test_what_a_long_phase_compiled_is_not_compiled_in_a_short_one(config, ranks, monkeypatch):
    nets = Nets(config, ranks)
    monkeypatch.setattr(phase_module, "compiler_for", lambda *_: Compiler("eager"))
    Phase(config, 1, nets, ranks).close()
    assert any(module._compiled_call_impl for module in nets.discriminator.modules())
    monkeypatch.setattr(phase_module, "compiler_for", lambda *_: None)
    Phase(config, 1, nets, ranks).close()
    for network in (nets.generator, nets.discriminator):
        assert not any(module._compiled_call_impl for module in network.modules())


def test_a_compiled_phase_prepares_its_patches_by_what_the_compiler_makes(config, ranks, monkeypatch):
    nets, numbers, pairs = Nets(config, ranks), [], []

    def backend(graph, inputs):
        numbers.append(len(pairs))
        return graph

    for compiler in (None, Compiler(backend)):
        monkeypatch.setattr(phase_module, "compiler_for", lambda *_, compiler=compiler: compiler)
        phase = Phase(config, 0, nets, ranks)
        pairs.append(next(phase.patches(phase.first_step)))
        phase.close()
    assert numbers == [1, 1, 1]  # what lies before, between and behind two products
    assert torch.equal(pairs[0].lr_image, pairs[1].lr_image) and torch.equal(pairs[0].hr_image, pairs[1].hr_image)


def test_a_checkpoint_without_a_discriminator_leaves_none_of_another_time(config, ranks):
    nets = Nets(config, ranks)
    before = {name: dict(state) for name, state in nets.weights().items()}
    nets.add_discriminator()
    with torch.no_grad():
        next(nets.discriminator.parameters()).fill_(torch.nan)
    nets.load(Checkpoint(path=Path("x"), step=0, manifest={}, weights=before, training={}))
    assert nets.discriminator is None


def test_a_run_goes_on_without_what_its_discriminator_started_from(config, ranks):
    before = Nets(config, ranks)
    before.add_discriminator()
    with torch.no_grad():
        next(before.discriminator.parameters()).fill_(0.5)
    moved = config.model_copy(update={"init_discriminator_from": "gone"})
    nets = Nets(moved, ranks)
    nets.load(Checkpoint(path=Path("x"), step=0, manifest={}, weights=before.weights(), training={}))
    assert (next(nets.discriminator.parameters()) == 0.5).all()
    with pytest.raises(InputError, match="gone"):
        Nets(moved, ranks).add_discriminator()


def test_micro_batches_divide_each_ranks_share(recipe, ranks, monkeypatch):
    phase = {**recipe["phases"][0], "batch_size": 6, "accumulate": 2}
    config = RunConfig.model_validate({**recipe, "phases": [phase]})
    monkeypatch.setattr(ranks, "world_size", 2)
    with pytest.raises(InputError, match=r"accumulate 2 does not divide the 3 patches of each of 2 ranks"):
        check_batch(config, config.phases[0], ranks)


def test_ranks_that_see_different_checkpoints_do_not_train(config, ranks, tmp_path, monkeypatch):
    run = Run(Stretch(config, tmp_path, 0, 1, None), ranks, StopFlag())
    run.restore()
    monkeypatch.setattr(ranks, "largest", lambda values: [max(pair) for pair in zip(values, [10.0, -10.0])])
    with pytest.raises(TrainingError, match=r"different checkpoints \(of steps 0 and 10\)"):
        run.restore()
    run.step = 10
    run._agree_on_step()


def test_what_a_full_disk_tore_spoils_no_other_line(config, ranks, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2, "phase": "\xff\xfe')
    (tmp_path / "events.jsonl").write_bytes(b'{"event": "start"}\n{"event": "st')
    log = RunLog(tmp_path, ranks)
    log.cut_back(5)
    log.started(5)
    log.started(5)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert lines[:2] == ['{"event": "start"}', '{"event": "st']
    assert [json.loads(line)["event"] for line in lines[2:]] == ["start", "start"]


def test_ranks_agree_again_after_a_roll_back():
    asked = []
    agreement = StopAgreement(StopFlag(), 2, lambda values: asked.append(values) or [0.0, 1e-4])
    agreement.reached(10_000)
    agreement.reached(10_001)
    agreement.reached(5_000)
    assert len(asked) == 2


def test_ranks_of_a_resumed_run_look_for_a_signal_again_after_its_first_step():
    """The steps before it took no time of this start, so they say nothing of how long one takes."""
    asked = []
    agreement = StopAgreement(StopFlag(), 2, lambda values: asked.append(values) or values)
    agreement.reached(100_000)
    time.sleep(0.05)
    agreement.reached(100_001)
    assert len(asked) == 2 and asked[1][1] >= 0.05
    agreement.reached(100_001 + int(AGREE_EVERY_S / 0.05))
    assert len(asked) == 3


@pytest.mark.parametrize(("form", "real", "fake"), [("least_squares", 1.0, 0.01), ("vanilla", 5.0, -5.0)])
def test_a_discriminator_that_is_right_is_called_right(form, real, fake):
    real_logits, fake_logits = torch.full((4, 1), real), torch.full((4, 1), fake)
    assert steps._accuracy(form, real_logits, fake_logits) == 1
    assert (torch.sign(real_logits - adversarial.undecided_logit(form)) == 1).all()


@pytest.mark.parametrize("num_channels", [1, 2, 3])
def test_a_narrow_discriminator_has_one_first_layer(num_channels):
    config = ConvDiscriminatorConfig(name="conv", num_channels=num_channels)
    discriminator = build_discriminator(config, 16)
    assert discriminator(torch.rand(2, 3, 16, 16)).shape == (2, 1)
    norms = [module for module in discriminator.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 7


class FullDisk:
    """Takes the beginning of a file."""

    left_bytes = 1000

    def write(self, piece: bytes) -> int:
        self.left_bytes -= len(piece)
        if self.left_bytes < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(piece)

    def flush(self) -> None: ...


def test_a_full_disk_is_told_as_one_also_by_torch(tmp_path):
    def fill(file: HashedFile) -> None:
        file._file = FullDisk()
        torch.save({"a": torch.zeros(10_000)}, file)  # ends with a RuntimeError about positions in the file

    with pytest.raises(OSError, match="No space left"):
        write_durably(tmp_path / "state.pt", fill)


def test_no_failure_of_a_write_goes_unnoticed(tmp_path):
    def fail() -> None:
        raise RuntimeError("unexpected")

    writer = CheckpointWriter(tmp_path, keep=2, before=fail)
    writer.start(None)
    writer.wait()
    assert str(writer.failed) == "unexpected"


def test_a_write_that_is_under_way_is_waited_for_although_room_is_made_meanwhile(tmp_path):
    slow = threading.Event()
    writer = CheckpointWriter(tmp_path, keep=2, before=lambda: slow.wait(0.2))
    weights = {"generator": {"w": torch.ones(1)}}
    writer.start(Snapshot(1, weights, {}, {"config": {}}))
    writer.reserve({"weights": weights})
    writer.wait()
    assert (tmp_path / "step_000000001").is_dir()


@pytest.fixture
def open_run(ranks, tmp_path):
    """A run of a configuration, and the opened phase of a number, at a step."""
    opened = []

    def build(config: RunConfig, number: int, step: int) -> tuple[Run, Phase]:
        run = Run(Stretch(config, tmp_path, 0, len(config.phases) - 1, None), ranks, StopFlag())
        run.step = step
        opened.append(loop._open_phase(run, number))
        return run, opened[-1]

    yield build
    for phase in opened:
        phase.close()


def test_a_broken_weight_of_the_discriminator_is_not_saved_either(config, open_run):
    run, phase = open_run(config, 1, config.first_step(1))
    with torch.no_grad():
        next(run.nets.discriminator.parameters())[0, 0] = float("nan")
    with pytest.raises(NonFinite, match="a weight is no longer finite"):
        run.save(phase, 1)


def test_layers_begin_anew_at_a_phases_first_step_and_never_again(recipe, open_run):
    """The average begins again with them; a run that goes on in the middle keeps what it has learnt."""
    second = {**recipe["phases"][0], "name": "second", "reinit_last": 1, "reinit_std": 0.05}
    config = RunConfig.model_validate({**recipe, "phases": [recipe["phases"][0], second]})

    def last_weights(step: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        run, _ = open_run(config.model_copy(update={"seed": seed}), 1, step)
        both = (run.nets.generator, run.nets.ema.module)
        return tuple([p for p in net.parameters() if p.dim() == 4][-1].detach().clone() for net in both)

    begun, average = last_weights(config.first_step(1))
    kept, _ = last_weights(config.first_step(1) + 1)
    assert torch.equal(begun, average) and not torch.equal(begun, kept)
    assert begun.std() == pytest.approx(0.05, rel=0.2)
    again, others = (last_weights(config.first_step(1), seed)[0] for seed in (0, 1))
    assert torch.equal(begun, again) and not torch.equal(begun, others)


def test_a_phase_goes_on_in_the_order_of_samples_where_the_one_before_ended(recipe, open_run):
    phases = [{**recipe["phases"][0], "batch_size": 6}, {**recipe["phases"][1], "batch_size": 4}]
    config = RunConfig.model_validate({**recipe, "phases": phases})
    first = config.first_step(1)
    _, phase = open_run(config, 1, first)
    for step in (first, first + 3):
        begin = 6 * first + 4 * (step - first)
        assert next(phase.patches(step)).position.tolist() == list(range(begin, begin + 4))


def test_each_network_has_its_own_rate_counted_from_its_phases_first_step(recipe, open_run):
    def at(milestone: int, rate: float) -> dict:
        schedule = {"name": "multistep", "milestones": [milestone], "factor": 0.1}
        return {"learning_rate": rate, "schedule": schedule}

    optimizers = {"generator_optimizer": at(5, 1e-3), "discriminator_optimizer": at(7, 2e-3)}
    config = RunConfig.model_validate({**recipe, "phases": [recipe["phases"][0], recipe["phases"][1] | optimizers]})
    first = config.first_step(1)
    _, phase = open_run(config, 1, first)
    rates = {step: phase.learning_rates(first + step) for step in (0, 4, 5, 7)}
    assert [rates[step]["generator"] for step in rates] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])
    assert [rates[step]["discriminator"] for step in rates] == pytest.approx([2e-3, 2e-3, 2e-3, 2e-4])
    phase.set_values(first + 5)
    assert [o.param_groups[0]["lr"] for o in phase.optimizers.values()] == pytest.approx([1e-4, 2e-3])
    assert float(phase.noise_std) == pytest.approx(0.1 * (1 - 5 / 20))
    phase.set_values(first + 10)
    assert float(phase.noise_std) == pytest.approx(0.1 * (1 - 10 / 20))


def test_what_is_due_in_every_nth_step_is_counted_from_the_phases_first_step(recipe, open_run):
    changes = {"generator_every": 2, "augment": {"name": "ada", "rule": "text", "every": 4}}
    phases = [{**recipe["phases"][0], "iterations": 3}, {**recipe["phases"][1], **changes}]
    _, phase = open_run(RunConfig.model_validate({**recipe, "phases": phases}), 1, 3)
    kinds = [phase.kind(3 + done, log_norms=False) for done in range(8)]
    assert [kind.updates_generator for kind in kinds] == [False, True] * 4
    assert [kind.moves_p for kind in kinds] == [False, False, False, True] * 2
    assert [phase.kind(3 + done, log_norms=False).has_instance_noise for done in (0, 19, 20)] == [True, True, False]
    assert not any(phase.kind(step, log_norms=False).penalises_gradient for step in range(3, 20)), "it has no weight"


def test_another_seed_begins_both_networks_otherwise_and_the_same_one_alike(config, ranks):
    def weights(seed: int, drawn_between: int) -> list[torch.Tensor]:
        nets = Nets(config.model_copy(update={"seed": seed}), ranks)
        torch.rand(drawn_between)  # changes nothing
        nets.add_discriminator()
        return [next(net.parameters()).detach() for net in (nets.generator, nets.discriminator)]

    first, again, other = weights(0, 1), weights(0, 2), weights(1, 1)
    for one, same, another in zip(first, again, other):
        assert torch.equal(one, same) and not torch.equal(one, another)
