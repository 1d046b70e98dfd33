"""The benchmark's reference does the recipe's work, and its floors count what they say."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
import torch
from pydantic import TypeAdapter

from harness.bench import floor, kernels, runs, step_table
from harness.bench import step as bench
from harness.bench.floor import Floor, MovedBytes, Rates, Work, work_of
from harness.bench.kernels import Kernel
from harness.bench.plain import PlainTraining, _with_torchs_layers
from harness.bench.runs import PhaseRun, measure_runs, noted_steps, seconds_per_step
from harness.config import RunConfig
from harness.models import conv, from_image, shuffle, to_image
from harness.models.build import build_discriminator, build_generator
from harness.models.config import GeneratorConfig, UNetDiscriminatorConfig
from harness.train.nets import Nets
from harness.train.phase import Phase
from harness.train.ranks import Ranks
from harness.train.steps import train_step

FORMS = ("vanilla", "relativistic_average")


def phase_of(recipe, number, tmp_path, **game):
    """A phase whose optimisers have the reference's rate, and whose networks are computed in fp32."""
    values = json.loads(json.dumps(recipe))
    values["generator"]["skip"] = "bicubic_align_corners"  # the one kind that torch interpolates as we do
    for phase in values["phases"]:
        for name in ("generator_optimizer", "discriminator_optimizer"):
            if name in phase:
                phase[name]["learning_rate"] = 1e-4
    if game:
        values["phases"][1]["adversarial"] |= game
    config = RunConfig.model_validate(values)
    ranks = Ranks(config, str(tmp_path))
    return Phase(config, number, Nets(config, ranks), ranks), ranks


@pytest.mark.parametrize(
    ("number", "game"), [(0, {}), *((1, {"form": form}) for form in FORMS), (1, {"r1_weight": 1.0, "r1_every": 1})]
)
def test_the_reference_computes_the_losses_of_the_step(recipe, tmp_path, number, game):
    phase, ranks = phase_of(recipe, number, tmp_path, **game)
    try:
        patches = next(phase.patches(phase.first_step))
        phase.set_values(phase.first_step)
        plain = PlainTraining(phase, phase.kind(phase.first_step, log_norms=False))
        losses = plain.step(patches)
        scalars = train_step(phase, patches, phase.first_step, log_norms=False)
        expected = [
            value.item() for name, value in scalars.items() if name.startswith("loss/") and name != "loss/total"
        ]
        if number == 1:
            if not phase.config.adversarial.r1_weight:  # which the reference's loss contains
                assert losses[0] == pytest.approx(scalars["d/loss"].item(), rel=1e-4)
            losses = losses[1:]
        assert losses == pytest.approx(expected, rel=1e-4)
    finally:
        phase.close()
        ranks.close()


def test_the_references_networks_lie_in_memory_as_it_says(recipe, tmp_path):
    features = {"name": "features", "network": "vgg16", "layers": {"conv1_2": 1.0}, "distance": "l1"}
    recipe["phases"][1]["losses"] = [features | {"weights": "random"}]
    phase, ranks = phase_of(recipe, 1, tmp_path)
    try:
        kind = phase.kind(phase.first_step, log_norms=False)
        for in_channels_last in (False, True):
            plain = PlainTraining(phase, kind, bf16_nhwc=in_channels_last)
            for module in (plain._losses, plain._generator, plain._discriminator):
                kernels = [weight for weight in module.parameters() if weight.dim() == 4]
                are = all(kernel.is_contiguous(memory_format=torch.contiguous_format) for kernel in kernels)
                assert are is not in_channels_last
    finally:
        phase.close()
        ranks.close()


@pytest.mark.parametrize("name", ["srresnet", "espcn"])
def test_the_references_layers_are_torchs_own(monkeypatch, name):
    choice = {"name": name, "skip": "bicubic_align_corners", "start_as_skip": False}
    networks = [
        build_generator(TypeAdapter(GeneratorConfig).validate_python(choice), 4).eval(),
        build_discriminator(UNetDiscriminatorConfig(name="unet", num_channels=4, spectral_norm=True), 16).eval(),
    ]
    image = torch.rand(1, 3, 16, 16)
    expected = [network(image) for network in networks]
    for module in (conv, from_image, shuffle, to_image):
        monkeypatch.setattr(module, "F", None)  # what our own forms of a layer compute with
    for network, wanted in zip(networks, expected):
        torch.testing.assert_close(_with_torchs_layers(network)(image), wanted, rtol=0, atol=1e-5)


def test_moved_bytes_are_what_operations_read_and_write():
    a, b = torch.ones(4, 8), torch.ones(4, 8)
    with MovedBytes() as moved:
        c = a + b  # two read, one written
        c.t()  # a view
        c.mul_(2.0)  # read and written in place: one storage
    assert moved.total == 3 * 128 + 128


def test_operations_of_a_step_are_those_of_its_matrix_products():
    a, b = torch.ones(4, 8), torch.ones(8, 2)
    work = work_of(lambda: a @ b, lambda: None, torch.device("cpu"))
    assert work.flops == 2 * 4 * 8 * 2
    assert work.moved_bytes == 4 * (32 + 16 + 8)
    assert work.kernels is None


def test_the_floor_is_the_largest_of_the_three():
    work, rates = (
        Work(flops=6e9, moved_bytes=4e9, kernels=(Kernel("conv", 400, 1.0), Kernel("add", 600, 0.5))),
        Rates(2e9, 1e9, 5e-3),
    )
    floor = Floor.of(work, rates)
    assert (floor.operations_s, floor.bytes_s, floor.kernels_s) == (3.0, 4.0, 5.0)
    assert floor.seconds == 5.0
    assert Floor.of(Work(6e9, 4e9, None), Rates(2e9, 1e9, None)).seconds == 4.0


def test_kernels_are_summed_by_name_the_longest_first():
    calls = [("add", 1.0), ("conv", 5.0), ("add", 3.0), ("conv", 4.0), ("copy", 1.0)]
    found = kernels.summed(calls, num_steps=2)
    assert [(kernel.name, kernel.num_calls) for kernel in found] == [("conv", 1.0), ("add", 1.0), ("copy", 0.5)]
    assert [kernel.seconds for kernel in found] == pytest.approx([4.5e-6, 2e-6, 0.5e-6])
    assert kernels.table_of("a step", found).row_count == 3


def test_a_phase_is_measured_whole(recipe, dataset, tmp_path):
    values = bench.prepared(RunConfig.model_validate(recipe), str(dataset), 2)
    figures = bench.measure_recipe("tiny", values, Rates(1e11, 1e10, None), 0.0, str(tmp_path))
    assert [figure.phase for figure in figures] == ["pretrain", "adversarial"]
    for figure, row in zip(figures, step_table.as_json(figures)):
        assert figure.work.flops > 0 and figure.work.moved_bytes > 0 and figure.peak_memory_mb > 0
        assert figure.ratio == pytest.approx(figure.plain_s / figure.step_s) and 0 < figure.loop_overhead < 1
        assert row["of_floor"] == pytest.approx(
            figure.step_s / max(row["floor"]["operations_s"], row["floor"]["bytes_s"])
        )
    assert step_table.table_of(figures).row_count == 2


def test_on_a_gpu_the_loop_is_what_iterations_take_more_than_steps_in_turns_with_them(monkeypatch):
    phase = SimpleNamespace(noise_std=SimpleNamespace(device=torch.device("cuda")))
    for iteration_s, loop_s in ((3.5, 0.5), (2.9, 0.0)):
        batches, taken = iter(range(10)), {}

        def timed(calls, seconds, device, iteration_s=iteration_s, batches=batches, taken=taken):
            for name, call in calls.items():
                call()
                taken[name] = next(batches)
            return {"step": 3.0, "iteration": iteration_s}

        monkeypatch.setattr(bench, "seconds_per_calls", timed)
        assert bench._loop_s(phase, batches, lambda: {"loss": torch.ones(())}) == loop_s
        assert taken == {"step": 0, "iteration": 2}, "an iteration takes a batch, a step takes none"


def test_on_a_gpu_what_the_host_does_counts_where_the_device_waits_for_it(monkeypatch):
    host_s = device_s = 0.0  # when each has done all that it was told

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.time_s = max(host_s, device_s)

        def synchronize(self) -> None:
            nonlocal host_s
            host_s = max(host_s, self.time_s)

        def elapsed_time(self, end: Event) -> float:
            return (end.time_s - self.time_s) * 1e3

    def work(on_host_s: float, on_device_s: float) -> None:
        nonlocal host_s, device_s
        host_s += on_host_s
        device_s = max(host_s, device_s) + on_device_s

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(floor, "_group_of", lambda call, device: 10)
    calls = {"step": lambda: work(1, 3), "iteration": lambda: work(2, 3), "slow": lambda: work(4, 3)}
    times = floor.seconds_per_calls(calls, 0.0, torch.device("cuda"))
    assert times == pytest.approx({"step": 3, "iteration": 3, "slow": 4})


ENDS = {"start": 0.0, "first_step": 50.0, "done": 300.0}


def test_the_pace_is_that_of_the_second_half_without_the_end():
    rows = [(step, 50.0 + (10.0 if step > 300 else 0.0) + step * 0.1) for step in range(100, 1000, 100)]
    late = [(1000, 290.0)]  # the last row is written after the end's validation
    assert seconds_per_step(rows + late, ENDS, 1000) == pytest.approx(0.1)
    assert seconds_per_step([*rows, (990, 198.0)], ENDS, 1000) == pytest.approx((198.0 - 110.0) / 490)


@pytest.mark.parametrize("logged", [[], [(100, 290.0)], [(50, 100.0), (100, 290.0)], [(50, 100.0), (74, 110.0)]])
def test_a_run_with_too_few_rows_is_timed_as_a_whole(logged):
    assert seconds_per_step(logged, ENDS, 100) == pytest.approx((300 - 50) / 99)


def test_what_is_done_once_counts_once_in_the_hours():
    run = PhaseRun("recipe", "phase", 2000, 32, step_s=0.008, once_s=90.0, iterations=450_000)
    assert run.hours == pytest.approx(1.0 + 90 / 3600)


def test_rows_are_noted_as_they_come_and_only_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    written = []
    with noted_steps(path) as noted:
        for text in ('{"step": 10}\n', '{"step": 20}\n{"st', 'ep": 30}\n'):
            written.append(time.time())
            with path.open("a") as file:
                file.write(text)
            deadline = time.monotonic() + 20
            while len(noted) < len(written) and time.monotonic() < deadline:
                time.sleep(0.001)
    assert [step for step, _ in noted] == [10, 20, 30]
    for (_, moment), earliest, latest in zip(noted, written, [*written[1:], time.time()]):
        assert earliest <= moment <= latest


def test_a_measured_run_is_told_by_its_second_half_and_what_is_done_once(recipe, tmp_path, monkeypatch):
    """A run that does nothing but log: each step takes 2 ms, what is done at the beginning and at the end 200."""
    steps, every, moments = 200, 10, {}

    def train(values, out):
        out.mkdir()
        events = [("start", time.time())]
        time.sleep(0.2)
        events.append(("first_step", time.time()))
        for step in range(every, steps + 1, every):
            time.sleep(0.002 * every + (0.2 if step == steps else 0.0))
            moments[step] = time.time()
            with (out / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step}) + "\n")
        events.append(("done", time.time()))
        (out / "events.jsonl").write_text("".join(json.dumps({"event": e, "time": t}) + "\n" for e, t in events))

    monkeypatch.setattr(runs, "train_apart", train)
    monkeypatch.setattr(runs, "draw_data", lambda folder, patch_px: "-")
    config = RunConfig.model_validate(recipe)
    for run, phase in zip(measure_runs("tiny", config, steps, tmp_path, None), config.phases, strict=True):
        assert (run.phase, run.steps, run.iterations) == (phase.name, steps, phase.iterations)
        assert 0.0015 < run.step_s < 0.006 and 0.2 < run.once_s < 2
    pace = (moments[190] - moments[100]) / 90  # of the last phase
    assert run.step_s == pytest.approx(pace, abs=0.001)


def test_what_a_step_moves_is_counted_with_real_and_generated_images_judged_apart():
    """As before the compiler: batch norm written out for it is many operations, which an eager step does not do."""
    phase = SimpleNamespace(judges_together=True)
    assert bench._as_written(phase, lambda: phase.judges_together) is False
    with pytest.raises(RuntimeError, match="inside"):
        bench._as_written(phase, lambda: fail(RuntimeError("inside")))
    assert phase.judges_together


def fail(error: Exception) -> None:
    raise error
