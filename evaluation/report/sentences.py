"""What the comparisons say, in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from evaluation.metrics import METRICS, Metric
from evaluation.report.columns import build_columns
from evaluation.report.compare import Comparison, Question, is_general
from evaluation.report.grid import show_number
from evaluation.report.sign_flips import ALPHA, LEVEL
from evaluation.scores.table import ScoreTable


def sentence(comparison: Comparison) -> str:
    """One comparison in one sentence: what differs, by how much, how sure that is."""
    return _decided(comparison) if comparison.is_decided else _undecided(comparison)


def _decided(c: Comparison) -> str:
    metric = METRICS[c.metric]
    better, worse = (c.first, c.second) if c.improvement > 0 else (c.second, c.first)
    direction = "higher" if metric.higher_is_better else "lower"
    low, high = sorted((abs(c.low), abs(c.high)))
    return (
        f"On {place(c)}, model {better} beats {worse}: "
        f"its {metric.label} is {_amount(c, abs(c.difference))} {direction} "
        f"({_span(c, low, high)}, {count_images(c)}, {_p(c)}){_seeds(c)}."
    )


def _seeds(c: Comparison) -> str:
    """Whether the trainings agree, where there are several: the test is over images alone."""
    if c.seed_pairs == 1:
        return ""
    agreeing = c.seed_pairs_better if c.improvement > 0 else c.seed_pairs - c.seed_pairs_better
    every = agreeing == c.seed_pairs
    return (
        f", in all {c.seed_pairs} pairs of seeds"
        if every
        else f", but only in {agreeing} of {c.seed_pairs} pairs of seeds"
    )


def is_of_all_seeds(c: Comparison) -> bool:
    """Whether each pair of seeds says the same."""
    return c.seed_pairs_better in (0, c.seed_pairs)


def _undecided(c: Comparison) -> str:
    return (
        f"On {place(c)}, {count_images(c)} do not show which is better by {METRICS[c.metric].label}: "
        f"model {c.first} minus {c.second} is {_amount(c, c.difference)} ({_span(c, c.low, c.high)}, {_p(c)})."
    )


def place(comparison: Comparison) -> str:
    """The class, with split and degradation where several were evaluated."""
    details = comparison.condition.removesuffix(comparison.image_class).strip("/").split("/")
    return comparison.image_class + (f" ({', '.join(details)})" if details != [""] else "")


def show_difference(comparison: Comparison, value: float) -> str:
    """A difference, with one digit more than the measure itself is shown with."""
    return show_number(value, METRICS[comparison.metric].digits + 1).replace("-", "−")


def count_images(comparison: Comparison) -> str:
    """How many images were compared, of how many, and of how many these are tiles."""
    what = "images" if comparison.num_images == comparison.num_sources else f"tiles of {comparison.num_sources} images"
    return f"{compared_of_all(comparison)} {what}"


def compared_of_all(comparison: Comparison) -> str:
    """The number of images (or tiles) that were compared, and of how many where some were left out."""
    num_images, num_left_out = comparison.num_images, comparison.num_left_out
    return f"{num_images} of {num_images + num_left_out}" if num_left_out else str(num_images)


def _amount(comparison: Comparison, value: float) -> str:
    return f"{show_difference(comparison, value)} {METRICS[comparison.metric].unit}".strip()


def _span(comparison: Comparison, low: float, high: float) -> str:
    return f"{LEVEL:.0%} interval {show_difference(comparison, low)} to {_amount(comparison, high)}"


def _p(comparison: Comparison) -> str:
    p = comparison.p_holm
    return "corrected p < 0.001" if p < 0.001 else f"corrected p = {p:.3f}"


def summary(comparisons: Sequence[Comparison], questions: Sequence[Question]) -> str:
    """One line over all questions by one measure: how many specialised models beat, equal or lose to the general one,
    and how many could not be compared; empty where none could.

    Where a model is compared under several conditions, comparisons are counted instead of models.
    """
    if not comparisons:
        return ""
    total = len(questions)
    wins = sum(c.is_decided and c.improvement > 0 for c in comparisons)
    losses = sum(c.is_decided and c.improvement < 0 for c in comparisons)
    rest, left = len(comparisons) - wins - losses, total - len(comparisons)
    rivals = {question.second.title for question in questions}
    only_rival = rivals.pop() if len(rivals) == 1 else ""
    if len({question.first.title for question in questions}) == total:
        text = f"{wins} of {total} specialised models beat {only_rival or 'their general model'} on their own class"
        text += f", {losses} lose{'s' if losses == 1 else ''} to it" if losses else ""
        text += f", {rest} cannot be told apart from it" if rest else ""
        text += f", {left} could not be compared" if left else ""
    else:
        rival = only_rival or "its general model"
        text = f"in {wins} of {total} comparisons a specialised model beats {rival} on its own class"
        text += f", in {losses} it loses" if losses else ""
        text += f", in {rest} neither is shown to be better" if rest else ""
        text += f", {left} could not be made" if left else ""
    mixed = sum(c.is_decided and not is_of_all_seeds(c) for c in comparisons)
    if mixed:
        text += f"; {mixed} of these verdicts {'is' if mixed == 1 else 'are'} not that of every pair of seeds"
    label = METRICS[comparisons[0].metric].label
    return f"By {label}, {text} (paired sign-flip test at {ALPHA:.0%}, Holm's correction)."


def why_unasked(table: ScoreTable, pool: str | None = None) -> str:
    """Why `specialisation_questions` has none, in one sentence."""
    columns = [column for column in build_columns(table.models) if not column.baseline]
    general = [column for column in columns if is_general(column, pool)]
    if len(general) == len(columns):
        reason = "No model was made for one class, so there is none to compare with a general one"
    elif not general:
        reason = "No general model was evaluated that those made for one class could be compared with"
    else:
        reason = "No model was evaluated on the class that it was made for"
    return f"{reason}. `harness compare FIRST SECOND` tests any two models."


def why_unanswered(asked: Sequence[Metric], questions: Sequence[Question], answers: Sequence[Comparison]) -> list[str]:
    """What `compare_all` left out of these measures and questions, in a sentence for each measure; empty: nothing."""
    texts = []
    for metric in [metric for metric in asked if metric.scope == "image"]:
        answered = {(a.condition, a.first, a.second) for a in answers if a.metric == metric.name}
        left = [q for q in questions if (q.condition.name, q.first.title, q.second.title) not in answered]
        names = ", ".join(f"{q.first.title} on {q.condition.name}" for q in left[:3])
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        if left:
            texts.append(
                f"By {metric.label}, {names}{more} cannot be compared: a number is missing, or there are not two "
                "images with finite numbers of both models."
            )
    if not any(metric.scope == "image" for metric in asked):
        texts.append("No measure of single images was evaluated, and the others cannot be tested image by image.")
    return texts


def merge_by_measure(sentences: Iterable[str]) -> list[str]:
    """Sentences that begin with "By MEASURE, " and say the same become one: "By MSE, PSNR and SSIM, ..."."""
    measures: dict[str, list[str]] = {}
    for text in filter(None, sentences):
        label, found, rest = _partition(text)
        measures.setdefault(rest if found else text, []).append(label if found else "")
    return [f"By {_listed(labels)}, {rest}" if labels[0] else rest for rest, labels in measures.items()]


def _partition(text: str) -> tuple[str, str, str]:
    """The measure, whether there is one, and the rest; commas in parentheses belong to the measure."""
    found = re.fullmatch(r"By ([^,(]+(?: \([^)]*\))*), (.*)", text, re.DOTALL)
    return (found[1], ", ", found[2]) if found else (text, "", "")


def _listed(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"
