"""Which models are compared, on which images, and what is said of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from evaluation.metrics import METRICS
from evaluation.model import Model
from evaluation.report.columns import Column
from evaluation.report.compare import (
    Comparison,
    Question,
    compare,
    compare_all,
    pair_questions,
    specialisation_questions,
    to_frame,
)
from evaluation.report.facts_grids import compare_grid
from evaluation.report.matrix import Condition, conditions_of
from evaluation.report.sections import compare_section
from evaluation.report.sentences import merge_by_measure, sentence, summary, why_unanswered, why_unasked
from harness.errors import InputError


def specialised(table, metric="psnr", **options) -> list[Comparison]:
    return compare(table, METRICS[metric], specialisation_questions(table, conditions_of(table)), **options)


def asked(table) -> list[Question]:
    return specialisation_questions(table, conditions_of(table))


def questions_of(models: list[str], generals: Sequence[str] = ("general",)) -> list[Question]:
    """Whether each model beats one of the general ones."""
    condition = Condition("beach", "test", "beach", "area")
    rivals = itertools.cycle(Column(name, (name,)) for name in generals)
    return [Question(condition, Column(name, (name,)), rival) for name, rival in zip(models, rivals)]


def test_measures_asked_together_answer_as_if_asked_alone(table):
    failed = (table.images["model"] == "beach") & (table.images["image"] == "beach_003")
    table.images.loc[failed, "mse"] = np.nan
    questions = specialisation_questions(table, conditions_of(table))
    together = compare_all(table, [METRICS["mse"], METRICS["psnr"]], questions)
    alone = [*compare(table, METRICS["mse"], questions), *compare(table, METRICS["psnr"], questions)]
    assert [c.num_images for c in together] == [7, 8, 8, 8]
    for left, right in zip(together, alone):
        assert (left.metric, left.first, left.p_holm) == (right.metric, right.first, right.p_holm)
        assert (left.low, left.high) == pytest.approx((right.low, right.high), rel=1e-9)


def test_comparison_is_the_same_for_a_seed_and_differs_between_seeds(table_maker):
    first, again, other = (specialised(table_maker(num_images=20), seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert [c.low for c in first] != [c.low for c in other]


def test_pairing_removes_the_difficulty_of_the_images(table):
    comparison = specialised(table)[0]
    rows = table.images[table.images["condition"] == comparison.condition]
    wide = rows.pivot(index="image", columns="model", values="psnr")
    assert comparison.difference == pytest.approx(wide["beach"].mean() - wide["general"].mean())
    assert comparison.high - comparison.low < wide["beach"].std()


def test_specialised_models_that_are_better_by_construction_win(table):
    answers = specialised(table)
    assert [(c.image_class, c.first, c.second) for c in answers] == [
        ("beach", "beach", "general"),
        ("mountain", "mountain", "general"),
    ]
    assert all(c.probability > 0.99 and c.is_decided and c.improvement > 0 for c in answers)


def test_lower_is_better_measures_turn_the_sign(table):
    answers = specialised(table, "mse")
    assert all(c.difference < 0 < c.improvement and c.probability > 0.99 for c in answers)
    assert all(c.low < c.difference < c.high for c in [*answers, *specialised(table)])


def test_equal_models_are_not_told_apart(table):
    table.images["psnr"] = 25.0
    answers = specialised(table)
    assert all(c.probability == 0.5 and c.p_holm == 1.0 and not c.is_decided for c in answers)
    assert all(c.seed_pairs_better == 0 for c in answers)
    assert "do not show which is better" in sentence(answers[0])


def test_sentence_names_classes_models_amount_and_unit(table):
    text = sentence(specialised(table)[0])
    assert text.startswith("On beach, model beach beats general: its PSNR is ")
    assert "dB higher (95% interval" in text and "8 images" in text
    by_mse = specialised(table, "mse")[0]
    low, high = f"{-by_mse.high:.7f}", f"{-by_mse.low:.7f}"
    assert sentence(by_mse).startswith("On beach, model beach beats general: its MSE is ")
    assert f"lower (95% interval {low} to {high}, 8 images, corrected p = 0.0" in sentence(by_mse)
    assert summary(specialised(table), asked(table)).startswith("By PSNR, 2 of 2 specialised models beat general")


UNSURE = Comparison(
    metric="psnr",
    condition="beach",
    image_class="beach",
    kernel="area",
    first="a",
    second="b",
    num_images=8,
    num_sources=8,
    num_left_out=0,
    difference=-0.1234,
    low=-0.3,
    high=0.05,
    probability=0.2,
    p_value=0.04,
    p_holm=0.08,
)


def test_a_sentence_gives_the_difference_with_its_sign_its_unit_and_the_corrected_p():
    assert sentence(UNSURE) == (
        "On beach, 8 images do not show which is better by PSNR: model a minus b is −0.123 dB (95% interval −0.300 to "
        "0.050 dB, corrected p = 0.080)."
    )
    decided = replace(UNSURE, high=-0.05, p_value=0.0004, p_holm=0.005)
    assert sentence(decided) == (
        "On beach, model b beats a: its PSNR is 0.123 dB higher (95% interval 0.050 to 0.300 dB, 8 images, corrected "
        "p = 0.005)."
    )
    assert sentence(replace(decided, p_holm=0.0009)).endswith("8 images, corrected p < 0.001).")


@pytest.mark.parametrize(
    ("comparison", "head", "texts"),
    [
        (UNSURE, "difference (dB)", ["−0.123", "−0.300 to +0.050", "20.0%", "0.080", "8"]),
        (replace(UNSURE, metric="ssim", num_sources=2), "difference", ["−0.12340", "−0.30000 to +0.05000"]),
        (replace(UNSURE, metric="mse"), "difference", ["−0.1234000", "−0.3000000 to +0.0500000", "20.0%"]),
        (
            replace(UNSURE, p_value=0.1, p_holm=0.0009),
            "difference (dB)",
            ["−0.123", "−0.300 to +0.050", "20.0%", "< 0.001"],
        ),
    ],
)
def test_the_table_gives_the_difference_with_its_sign_its_unit_and_the_corrected_p(comparison, head, texts):
    grid = compare_grid([comparison], "x")
    assert [entry.text for entry in grid.lines[0].entries][: 1 + len(texts)] == ["a against b", *texts]
    assert grid.heads[1].title == head and grid.lines[0].heads == ("beach",)


def test_losing_specialised_model_is_said_to_lose(table):
    better = (table.images["model"] == "general") & (table.images["image_class"] == "beach")
    table.images.loc[better, "psnr"] += 3
    answers = specialised(table)
    assert sentence(answers[0]).startswith("On beach, model general beats beach: its PSNR is ")
    assert "1 of 2 specialised models beat general on their own class, 1 loses to it (" in summary(
        answers, asked(table)
    )


def test_images_without_a_number_for_one_model_are_left_out_of_the_pairs(table):
    failed = (table.images["model"] == "beach") & (table.images["image"] == "beach_003")
    table.images.loc[failed, "psnr"] = np.nan
    first, second = specialised(table)
    assert (first.num_images, first.num_left_out, second.num_left_out) == (7, 1, 0)
    assert ", 7 of 8 images, " in sentence(first) and ", 8 images, " in sentence(second)
    counts = [line.entries[5].text for line in compare_grid([first, second], "PSNR").lines]
    assert counts == ["7 of 8", "8"]


def test_seeds_are_averaged_per_image_before_the_resampling(table_maker):
    models = [Model(f"beach-seed{s}", "checkpoint", "x", {"class": "beach", "seed": str(s)}, "beach") for s in range(3)]
    models += [Model(f"general-seed{s}", "checkpoint", "x", {"class": "all", "seed": str(s)}) for s in range(3)]
    table = table_maker(models)
    answer = specialised(table)[0]
    assert (answer.first, answer.second, answer.num_images) == ("beach", "general", 8)


def test_the_rival_is_the_general_model_that_shares_most_axes(table_maker):
    models = [
        Model(f"{name}-{kind}", "checkpoint", "x", {"generator": kind, "class": name}, name)
        for name in ("general", "beach")
        for kind in ("small", "large")
    ]
    answers = specialised(table_maker(models))
    pairs = [("beach-small", "general-small"), ("beach-large", "general-large")]
    assert [(answer.first, answer.second) for answer in answers] == pairs


def test_an_image_that_one_seed_failed_on_is_left_out_of_the_pairs(table_maker):
    models = [Model(f"beach-seed{s}", "checkpoint", "x", {"class": "beach", "seed": str(s)}, "beach") for s in range(2)]
    table = table_maker([*models, Model("general", "checkpoint", "x")])
    failed = (table.images["model"] == "beach-seed1") & (table.images["image"] == "beach_003")
    table.images.loc[failed, "psnr"] = np.nan
    assert specialised(table)[0].num_images == 7


@pytest.mark.parametrize("num_failed", [0, 2])
def test_unequal_numbers_of_tiles_are_tested_as_if_all_signs_were_turned_one_by_one(table_maker, num_failed):
    """In whatever order the rows stand, and where tiles have no number."""
    table = table_maker(num_images=16)
    cut = ["a", "b", "b", "c", "c", "c", "d", "e", "e", "f", "g", "g", "g", "g", "h", "h"]
    table.images["source_hash"] = [cut[int(name[-3:])] for name in table.images["image"]]
    is_beach = table.images["model"] == "beach"
    table.images.loc[is_beach, "psnr"] -= 0.45
    failed = [f"beach_{number:03d}" for number in (1, 5)[:num_failed]]
    table.images.loc[is_beach & table.images["image"].isin(failed), "psnr"] = np.nan
    table.images = table.images.sample(frac=1, random_state=0)
    answer = specialised(table)[0]
    wide = table.images[table.images["condition"] == "beach"].pivot(index="image", columns="model", values="psnr")
    difference = (wide["beach"] - wide["general"]).to_numpy()
    units = [np.nansum(difference[[source == name for source in cut]]) for name in sorted(set(cut))]
    sums = [abs(np.dot(signs, units)) for signs in itertools.product((-1, 1), repeat=len(units))]
    assert answer.difference == pytest.approx(np.nanmean(difference)) and answer.num_sources == 8
    assert (answer.num_images, answer.num_left_out) == (16 - num_failed, num_failed)
    assert answer.p_value == pytest.approx(np.mean(np.array(sums) >= abs(sum(units)) - 1e-12))
    assert 0.02 < answer.p_value < 0.98


def test_seeds_that_disagree_are_told_beside_the_test_over_images(table_maker):
    models = [Model(f"beach-seed{s}", "checkpoint", "x", {"class": "beach", "seed": str(s)}, "beach") for s in range(2)]
    table = table_maker([*models, Model("general", "checkpoint", "x", {"class": "all"})])
    (answer,) = specialised(table)
    assert (answer.seed_pairs, answer.seed_pairs_better) == (2, 2)
    assert sentence(answer).endswith("), in all 2 pairs of seeds.") and "verdict" not in summary([answer], asked(table))
    worse = (table.images["model"] == "beach-seed1") & (table.images["image_class"] == "beach")
    better = (table.images["model"] == "beach-seed0") & (table.images["image_class"] == "beach")
    table.images.loc[worse, ["psnr", "mse"]] += [-1, 0.004]
    table.images.loc[better, ["psnr", "mse"]] += [3, -0.009]
    for metric in ("psnr", "mse"):
        (answer,) = specialised(table, metric)
        assert answer.is_decided and (answer.seed_pairs, answer.seed_pairs_better) == (2, 1)
        assert sentence(answer).endswith("), but only in 1 of 2 pairs of seeds.")
        assert (
            "1 of 1 specialised models beat general on their own class; 1 of these verdicts is not that of every pair"
            in summary([answer], asked(table))
        )
        (section,) = compare_section([answer], 10_000)
        assert section.content[0].grid.lines[0].entries[-1].text == "1 of 2"


@pytest.mark.parametrize("metric", ["psnr", "mse"])
@pytest.mark.parametrize(("sign", "num_better"), [(1, 2), (-1, 1)])
def test_pairs_of_seeds_are_counted_whichever_way_is_better_and_whoever_wins(table_maker, metric, sign, num_better):
    models = [Model(f"beach-seed{s}", "checkpoint", "x", {"class": "beach", "seed": str(s)}, "beach") for s in range(3)]
    table = table_maker([*models, Model("general", "checkpoint", "x")])
    general = table.values("general", "beach", metric)
    for model, gain in zip(models, (0.02, 0.03, -0.01)):
        gains = sign * gain * np.linspace(0.9, 1.1, 8)
        rows = (table.images["model"] == model.name) & (table.images["condition"] == "beach")
        table.images.loc[rows, metric] = general.to_numpy() + gains * (1 if metric == "psnr" else -1)
    (answer,) = specialised(table, metric)
    assert answer.is_decided and answer.improvement * sign > 0
    assert (answer.seed_pairs, answer.seed_pairs_better) == (3, num_better)
    winner = "beach beats general" if sign > 0 else "general beats beach"
    assert winner in sentence(answer) and sentence(answer).endswith("), but only in 2 of 3 pairs of seeds.")


def test_pairs_of_seeds_are_counted_over_the_images_of_the_test(table_maker):
    models = [Model(f"beach-seed{s}", "checkpoint", "x", {"class": "beach", "seed": str(s)}, "beach") for s in range(2)]
    table = table_maker([*models, Model("general", "checkpoint", "x")])
    at = table.images["image"] == "beach_003"
    table.images.loc[at & (table.images["model"] == "general"), "psnr"] = np.nan
    table.images.loc[at & (table.images["model"] == "beach-seed0"), "psnr"] = -1000
    (answer,) = specialised(table)
    assert (answer.num_images, answer.seed_pairs_better) == (7, 2)


def test_a_model_of_the_pooled_row_is_a_general_one_and_a_baseline_is_none(table_maker):
    special, pooled = (Model(name, "checkpoint", "x", {}, name) for name in ("beach", "everything"))
    table = table_maker([special, pooled, Model("bicubic", "method")])
    (question,) = specialisation_questions(table, conditions_of(table), "everything")
    assert (question.first.title, question.second.title) == ("beach", "everything")
    assert specialisation_questions(table, conditions_of(table)) == []


def test_a_class_without_images_is_not_compared_and_the_others_are(table_maker):
    models = [Model(name, "checkpoint", "x", {}, name) for name in ("beach", "desert", "general")]
    table = table_maker(models, classes=("beach", "general"))
    table.conditions.insert(0, "desert")
    assert [answer.image_class for answer in specialised(table)] == ["beach"]


def test_answers_stand_in_the_order_of_the_questions(table):
    failed = (table.images["model"] == "mountain") & (table.images["image"] == "beach_003")
    table.images.loc[failed, "psnr"] = np.nan
    pairs = [("beach", "general"), ("mountain", "general"), ("beach", "bicubic")]
    answers = compare(table, METRICS["psnr"], pair_questions(table, conditions_of(table)[:1], pairs))
    assert [(answer.first, answer.second) for answer in answers] == pairs


def test_a_summary_counts_what_is_decided_alone(table):
    won, other = specialised(table)
    lost = replace(other, first="sea", difference=-1.0)
    unsure = replace(won, first="desert", p_holm=0.3, seed_pairs=4, seed_pairs_better=1)
    assert summary([won, lost, unsure], questions_of(["beach", "sea", "desert"])) == (
        "By PSNR, 1 of 3 specialised models beat general on their own class, 1 loses to it, 1 cannot be told apart "
        "from it (paired sign-flip test at 5%, Holm's correction)."
    )


def test_a_summary_tells_of_the_models_that_could_not_be_compared(table):
    won, lost = specialised(table)
    lost = replace(lost, difference=-1.0)
    of_models = questions_of(["beach", "mountain", "sea", "ice"], ["general-a", "general-b"])
    assert summary([won, lost], of_models).startswith(
        "By PSNR, 1 of 4 specialised models beat their general model on their own class, 1 loses to it, "
        "2 could not be compared ("
    )
    of_conditions = questions_of(["beach", "mountain", "beach"])
    assert summary([won, lost], of_conditions).startswith(
        "By PSNR, in 1 of 3 comparisons a specialised model beats general on its own class, in 1 it loses, 1 could not "
        "be made ("
    )
    assert summary([], of_models) == ""


def test_the_table_says_which_sign_is_the_better_one(table):
    captions = [compare_grid(specialised(table, metric), "x").caption for metric in ("psnr", "mse")]
    assert [caption.split("; ")[1] for caption in captions] == [
        "positive means that the first is better",
        "negative means that the first is better",
    ]


def test_any_pair_can_be_compared_and_an_unknown_name_is_refused(table):
    conditions = conditions_of(table)
    answers = compare(table, METRICS["psnr"], pair_questions(table, conditions, [("beach", "bicubic")]))
    assert len(answers) == len(conditions) and len(to_frame(answers)) == len(conditions)
    with pytest.raises(InputError, match="no model 'bech'; use two of"):
        pair_questions(table, conditions, [("bech", "bicubic")])
    with pytest.raises(InputError, match="'beach' is given twice; name another of"):
        pair_questions(table, conditions, [("beach", "beach")])


def test_measures_that_say_the_same_share_a_sentence():
    texts = ["By MSE, 2 of 2 win.", "", "By PSNR, 2 of 2 win.", "By SSIM, 1 of 2 win.", "By FID, 2 of 2 win."]
    assert merge_by_measure(texts) == ["By MSE, PSNR and FID, 2 of 2 win.", "By SSIM, 1 of 2 win."]


def test_sentences_name_the_degradation_where_several_were_measured(table_maker):
    table = table_maker(kernels=("matlab-bicubic", "nearest"))
    answers = specialised(table)
    texts = [sentence(answer) for answer in answers]
    assert len(set(texts)) == 4
    assert sum("On beach (nearest), model beach" in text for text in texts) == 1
    questions = asked(table)
    assert summary(answers, questions).startswith("By PSNR, in 4 of 4 comparisons a specialised model beats general")


def test_comparisons_that_no_scores_could_decide_are_announced(table_maker):
    answers = specialised(table_maker(), resamples=30)
    assert not any(answer.is_decided for answer in answers), "both win clearly, and still"
    (section,) = compare_section(answers, 30)
    assert "2 of 2 comparisons of a measure cannot be decided" in section.intro[1]
    assert len(compare_section(specialised(table_maker()), 10_000)[0].intro) == 1
    few = specialised(table_maker(num_images=5))
    assert "cannot be decided" in compare_section(few, 10_000)[0].intro[1]
    both = [*specialised(table_maker()), *(replace(answer, metric="ssim") for answer in few)]
    (section,) = compare_section(both, 10_000)
    assert "2 of 2 comparisons" in section.intro[1], "of the measure that has most such"
    assert [len(answer.grid.lines) for answer in section.content] == [2, 2], "each measure its own table"
    tiles = [replace(answer, num_sources=5) for answer in specialised(table_maker(num_images=10))]
    assert "cannot be decided" in compare_section(tiles, 10_000)[0].intro[1], "many tiles of few images"


def test_two_images_never_decide_anything(table_maker):
    answers = specialised(table_maker(num_images=2))
    assert len(answers) == 2 and all(c.p_value >= 0.5 and not c.is_decided for c in answers)


def test_tiles_of_one_image_count_as_one(table):
    whole = specialised(table)[0]
    tiles = table.images.loc[table.images.index.repeat(4)].reset_index(drop=True)
    tiles["image"] += "-" + (tiles.index % 4).astype(str)
    table.images = tiles
    cut = specialised(table)[0]
    assert (cut.num_images, cut.num_sources) == (32, 8) and (whole.num_images, whole.num_sources) == (8, 8)
    same = ("difference", "low", "high", "p_value")
    assert [getattr(cut, name) for name in same] == pytest.approx([getattr(whole, name) for name in same])
    assert "32 tiles of 8 images" in sentence(cut)
    table.images["source_hash"] = "all of one photograph"
    assert not specialised(table)


def test_a_stale_cell_is_not_compared_but_one_with_failed_images_is(table):
    table.missing["beach", "beach", "psnr"] = "stale: the weights changed"
    assert [c.image_class for c in specialised(table)] == ["mountain"]
    assert len(specialised(table, "ssim")) == 2
    table.missing["beach", "beach", "psnr"] = "the output for x of 8 images is not finite (NaN)"
    assert len(specialised(table)) == 2


def test_a_column_that_lacks_a_seed_is_not_compared(table_maker):
    models = [Model(f"beach-seed{s}", "checkpoint", "x", {"class": "beach", "seed": str(s)}, "beach") for s in range(3)]
    table = table_maker([*models, Model("general", "checkpoint", "x")])
    assert len(specialised(table)) == 1
    table.missing["beach-seed1", "beach", "psnr"] = "stale: the weights changed"
    assert not specialised(table)


def test_why_nothing_is_compared_is_one_sentence(table_maker):
    alone, general = Model("sea", "checkpoint", "x", {}, "beach"), Model("all", "checkpoint", "x")
    assert why_unasked(table_maker([general])).startswith("No model was made for one class")
    assert why_unasked(table_maker([alone])).startswith("No general model was evaluated")
    elsewhere = table_maker([alone, general], classes=("mountain",))
    assert not specialised(elsewhere)
    assert why_unasked(elsewhere).startswith("No model was evaluated on the class that it was made for.")


def test_what_is_left_out_of_the_comparisons_is_named(table):
    questions = specialisation_questions(table, conditions_of(table))
    metrics = [METRICS["psnr"], METRICS["ssim"]]
    assert why_unanswered(metrics, questions, compare_all(table, metrics, questions)) == []
    table.missing["beach", "beach", "psnr"] = "stale"
    (text,) = why_unanswered(metrics, questions, compare_all(table, metrics, questions))
    assert text.startswith("By PSNR, beach on beach cannot be compared: a number is missing")
    assert "No measure of single images" in why_unanswered([METRICS["fid"]], questions, [])[0]
