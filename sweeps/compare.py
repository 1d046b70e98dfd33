"""`harness compare`: one model of a sweep against another, class by class."""

from __future__ import annotations

from rich.console import Console

from harness.errors import InputError
from harness.screen import say
from sweeps.evaluate import Evaluation


def compare_here(evaluation: Evaluation, first: str, second: str, metric: str, console: Console) -> None:
    """Prints the paired test of two models on every condition, from the scores that there are.

    Raises:
        InputError: nothing has been scored, or a model or measure is not among the scores.
    """
    from evaluation.metrics import METRICS
    from evaluation.report.compare import compare, pair_questions
    from evaluation.report.matrix import conditions_of
    from evaluation.report.sentences import why_unanswered
    from evaluation.report.terminal import print_comparisons

    table = evaluation.scores()
    scored = [name for name in METRICS if name in table.images.columns]
    if metric not in scored:
        raise InputError(f"compare: '{metric}' was not scored for each image; choose one of {', '.join(scored)}.")
    questions = pair_questions(table, conditions_of(table), [(first, second)])
    config = evaluation.config.report
    comparisons = compare(table, METRICS[metric], questions, config.resamples, config.seed)
    if not comparisons:
        raise InputError(
            f"compare: no class has two images that both {first} and {second} were scored on by {metric}, so there is "
            "nothing to test; run `harness evaluate` again, or evaluate more images."
        )
    print_comparisons(console, comparisons)
    for remark in why_unanswered([METRICS[metric]], questions, comparisons):
        say(console, remark)
