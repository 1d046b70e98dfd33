"""Schedules, the moving average, the cadence, the watch, the meter, and the stop agreement."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from harness.errors import EXIT_SAVED, TrainingError
from harness.process import process_start
from harness.train.cadence import mean_time_between_stops, steps_between_saves
from harness.train.config import CheckpointConfig, OptimizerConfig, WatchConfig
from harness.train.ema import Ema
from harness.train.log import Meter
from harness.train.lost import lost_a_rank
from harness.train.optimizers import build_adam
from harness.train.pace import Pace
from harness.train.schedule import learning_rate_at
from harness.train.stop import AGREE_EVERY_S, StopAgreement, StopFlag, leaving_unstarted
from harness.train.watch import NonFinite, Watch, all_finite


def optimizer(schedule):
    return OptimizerConfig.model_validate({"learning_rate": 0.1, "schedule": schedule})


def torch_rates(build, steps):
    parameter = nn.Parameter(torch.zeros(1))
    adam = torch.optim.Adam([parameter], lr=0.1)
    scheduler = build(adam)
    rates = []
    for _ in range(steps):
        rates.append(adam.param_groups[0]["lr"])
        adam.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("world_size", "lost"), [("1", False), ("2", True)])
def test_a_rank_is_only_lost_where_there_are_several(monkeypatch, world_size, lost):
    monkeypatch.setenv("WORLD_SIZE", world_size)
    assert lost_a_rank(RuntimeError("[gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:3")) is lost
    assert lost_a_rank(torch.distributed.DistBackendError("NCCL error")) is lost
    assert not lost_a_rank(ConnectionResetError(104, "Connection reset by peer"))
    assert not lost_a_rank(RuntimeError("shapes differ"))


def test_a_process_is_known_by_when_it_started():
    """Against the age that `ps` computes from the same boot."""
    age_s = int(subprocess.run(["ps", "-o", "etimes=", "-p", str(os.getpid())], capture_output=True, check=True).stdout)
    since_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(process_start(os.getpid())) / os.sysconf("SC_CLK_TCK")
    assert since_boot_s == pytest.approx(age_s, abs=2.0)


def test_multistep_schedule_equals_torchs():
    config = optimizer({"name": "multistep", "milestones": [3, 7, 7, 11], "factor": 0.5})
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [3, 7, 7, 11], 0.5), 15)
    assert [learning_rate_at(config, s) for s in range(15)] == pytest.approx(expected)


def test_cosine_schedule_equals_torchs_restarts():
    config = optimizer({"name": "cosine", "period_steps": 5, "minimum": 0.01})
    restarts = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts
    expected = torch_rates(lambda o: restarts(o, 5, eta_min=0.01), 17)
    assert [learning_rate_at(config, s) for s in range(17)] == pytest.approx(expected)


def test_warmup_rises_linearly_to_the_rate():
    config = optimizer({"name": "constant", "warmup_steps": 4})
    assert [learning_rate_at(config, s) for s in range(6)] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_weight_decay_shrinks_the_weights_and_is_no_part_of_the_gradient():
    """AdamW: with a gradient of zero each update takes off rate times decay, however many there were."""
    network = nn.Linear(2, 2)
    expected = network.weight.detach() * (1 - 0.1 * 0.5) ** 3
    adam = build_adam(network, OptimizerConfig(learning_rate=0.1, weight_decay=0.5), None)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(3):
        adam.step()
    torch.testing.assert_close(network.weight.detach(), expected)


def test_average_follows_its_formula_and_copies_buffers():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = Ema(module, 0.9)
    expected = module[0].weight.detach().clone()
    for _ in range(3):
        with torch.no_grad():
            module[0].weight += 1.0
            module[1].running_mean += 1.0
        ema.update()
        expected = 0.9 * expected + 0.1 * module[0].weight.detach()
    torch.testing.assert_close(ema.module[0].weight, expected)
    assert torch.equal(ema.module[1].running_mean, module[1].running_mean)
    assert not any(p.requires_grad for p in ema.module.parameters())


def test_an_average_that_forgets_at_once_is_the_module_and_costs_nothing():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = Ema(module, 0.0)
    with torch.no_grad():
        module[0].weight += 1.0
    module(torch.randn(8, 2))  # moves the statistics
    ema.update()
    for name, value in module.state_dict().items():
        assert ema.module.state_dict()[name].data_ptr() == value.data_ptr()
    assert module.training and not ema.module.training
    assert not any(p.requires_grad for p in ema.module.parameters())


def test_cadence_is_youngs_and_dalys_within_the_bounds():
    config = CheckpointConfig(every=10_000, min_every=10)
    assert steps_between_saves(config, 2.0, 2.5, 0.1, None) == 10_000
    assert steps_between_saves(config, 2.0, 2.5, 0.1, 3600.0) == round((math.sqrt(2 * 2.0 * 3600) - 2.0) / 0.1)
    assert steps_between_saves(config, 0.0, 0.0, 0.1, 3600.0) == 10
    assert steps_between_saves(config, 500.0, 0.0, 0.01, 1e6) == 10_000


def test_however_often_a_run_is_interrupted_it_writes_for_a_tenth_of_the_time_at_most():
    config = CheckpointConfig(every=10_000, min_every=1)
    assert steps_between_saves(config, save_s=0.04, write_s=3.0, step_s=0.5, mean_time_between_stops_s=20.0) == 60


@pytest.mark.parametrize(
    ("killed", "told", "bounds", "first_save"),
    [
        (False, False, {}, 5000),
        (True, True, {}, 10),
        (False, True, {}, 10),  # another rank has seen it, on a folder that lags behind
        (True, True, {"min_every": 20}, 20),
    ],
)
def test_run_that_is_killed_before_its_first_save_saves_early_when_it_is_started_again(
    tmp_path, killed, told, bounds, first_save
):
    starts = [{"event": "start", "time": 0}, {"event": "start", "time": 900, "last_updated": 800}]
    rows = starts if killed else starts[:1]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = SimpleNamespace(checkpoint=CheckpointConfig(every=5000, **bounds))
    ranks = SimpleNamespace(largest=lambda values: [max(value, 1 / 800 if told else 0.0) for value in values])
    run = SimpleNamespace(stretch=SimpleNamespace(out=tmp_path), step=0, config=config, ranks=ranks)
    assert Pace(run, phase=None).save_every == first_save


def test_run_that_was_killed_had_run_until_it_was_heard_of_last(tmp_path):
    path = tmp_path / "events.jsonl"
    rows = [
        ("start", 0, None),
        ("first_step", 5, None),
        ("start", 900, 800),
        ("stop", 1000, None),
        ("start", 2000, 999),
    ]
    rows = [{"event": event, "time": moment, "last_updated": heard} for event, moment, heard in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert mean_time_between_stops(path) == pytest.approx((800 + 100) / 2)


def test_mean_time_between_stops_counts_signals_and_kills(tmp_path):
    events = [
        ("start", 0),
        ("checkpoint", 8),
        ("stop", 10),
        ("start", 20),
        ("checkpoint", 30),
        ("start", 40),
        ("done", 50),
    ]
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps({"event": e, "time": t}) + "\n" for e, t in events))
    assert mean_time_between_stops(path) == pytest.approx((10 + 10 + 10) / 2)
    assert mean_time_between_stops(tmp_path / "none.jsonl") is None

    with path.open("ab") as file:
        file.write(b'{"event": "st\xff\n[]\n{}\n{"event": "start", "time": 60}\n{"event": "stop", "time": 9}\n')
    assert mean_time_between_stops(path) == pytest.approx((10 + 10 + 10 + 0) / 3), "the clock was set back"
    path.write_text('{"event": "start", "time": 60}\n{"event": "stop", "time": 9}\n')
    assert mean_time_between_stops(path) is None


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_watch_stops_on_what_is_not_finite(value):
    with pytest.raises(NonFinite, match=f"loss/l1 became {value} before step 7"):
        Watch(WatchConfig()).check(7, {"loss/l1": float(value)})


def test_watch_stops_when_the_discriminator_is_always_right():
    watch = Watch(WatchConfig(perfect_discriminator_steps=100))
    watch.check(50, {"d/accuracy": 1.0})
    watch.check(100, {"d/accuracy": 0.99})
    watch.check(150, {"d/accuracy": 1.0})
    watch.check(200, {"d/accuracy": 1.0})
    with pytest.raises(TrainingError, match="right about every image for 100 steps"):
        watch.check(250, {"d/accuracy": 1.0})


def test_watch_stops_when_the_images_collapse():
    watch = Watch(WatchConfig(collapsed_range=0.01))
    watch.check(1, {"sr/std": 0.02})
    with pytest.raises(TrainingError, match="collapsed"):
        watch.check(2, {"sr/std": 0.005})


def test_a_single_bad_weight_is_found():
    module = nn.Linear(3, 3)
    assert all_finite(module, None)
    with torch.no_grad():
        module.weight[1, 1] = float("inf")
    assert not all_finite(module, None)


class OneRank:
    world_size = 1

    def mean_tensor(self, value):
        return value


def test_meter_gives_means_over_the_steps_that_logged_a_name():
    meter = Meter()
    for i in range(4):
        meter.add({"a": torch.tensor(float(i)), **({"b": torch.tensor(10.0 * i)} if i % 2 else {})})
    restored = Meter()
    restored.load_state_dict(meter.state_dict(OneRank()), torch.device("cpu"))
    for each in (meter, restored):
        assert each.fetch(OneRank()) == {"a": 1.5, "b": 20.0}
        assert each.fetch(OneRank()) == {}


def test_a_stop_signal_only_sets_a_flag():
    flag = StopFlag()
    flag.install()
    try:
        assert not flag.is_set
        os.kill(os.getpid(), signal.SIGUSR2)
        first = flag.received_at
        assert flag.is_set and flag.signal_name == "SIGUSR2"
        os.kill(os.getpid(), signal.SIGTERM)
        assert (flag.signal_name, flag.received_at) == ("SIGUSR2", first)
    finally:
        flag.restore()
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL


@pytest.mark.parametrize("between", [[], ["SIGTERM"]])
def test_a_second_ctrl_c_leaves_at_once_whatever_came_between(monkeypatch, between):
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    flag = StopFlag()
    for name in ("SIGINT", *between):
        flag._on_signal(signal.Signals[name], None)
    assert left == []
    flag._on_signal(signal.SIGINT, None)
    assert left == [130]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_before_training_has_begun_leaves_with_75(number, capsys):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as left, leaving_unstarted():
        os.kill(os.getpid(), number)
        time.sleep(1)
    assert left.value.code == EXIT_SAVED and signal.getsignal(number) == before
    assert f"{number.name} before training had begun" in capsys.readouterr().err


def test_ranks_agree_rarely_and_at_the_same_steps():
    """Two ranks whose reductions are simulated: both compute the same next agreement, and stop at the same step."""
    flags, step_s = [StopFlag(), StopFlag()], 0.05
    asked: list[int] = []
    inbox: dict[int, list[float]] = {}

    def largest_for(rank):
        def largest(values):
            asked.append(rank)
            other = inbox.get(1 - rank, [0.0, 0.0])
            inbox[rank] = values
            return [max(values[0], other[0], float(any(f.is_set for f in flags))), step_s]

        return largest

    agreements = [StopAgreement(flags[r], 2, largest_for(r)) for r in range(2)]
    stopped = []
    for step in range(1, 40):
        if step == 17:
            flags[1].signal_name = "SIGTERM"
        answers = [agreement.reached(step) for agreement in agreements]
        assert answers[0] == answers[1]
        if answers[0]:
            stopped.append(step)
            break
    every = AGREE_EVERY_S / step_s
    assert stopped and 17 <= stopped[0] <= 17 + every
    assert len(asked) / 2 <= 1 + stopped[0] / every
