"""From a matrix to the grid that is shown: ranks, shades, frames, means and footnotes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from evaluation.metrics import NOISE_METRICS, Metric
from evaluation.report.cell_scores import Cell, explain_deviation
from evaluation.report.grid import BEST, SECOND, Entry, Footnotes, Grid, Head, Line, rank_values, shades, show_number
from evaluation.report.matrix import Matrix, row_kind_label


def matrix_grid(matrix: Matrix) -> Grid:
    """The whole matrix with row and column means; the ranking is among models, baselines and means stand apart."""
    notes = Footnotes()
    heads = [Head(column.title, apart=column.baseline) for column in matrix.columns]
    many_models = sum(not column.baseline for column in matrix.columns) > 1
    if many_models:
        heads.append(Head("mean of models", apart=True))
    lines = [_row(matrix, row, notes, many_models) for row in range(len(matrix.rows))]
    if len(matrix.rows) > 1:
        lines.append(_mean_line(matrix, notes, many_models))
    return Grid(
        title=matrix.title,
        caption=_caption(matrix),
        corner=(row_kind_label(matrix.row_kind),),
        heads=tuple(heads),
        lines=tuple(lines),
        footnotes=notes.pairs(),
    )


def _caption(matrix: Matrix) -> str:
    better = "higher" if matrix.metric.higher_is_better else "lower"
    unit = f" in {matrix.metric.unit}" if matrix.metric.unit else ""
    spread = explain_deviation([cell for line in matrix.cells for cell in line], matrix.metric, "seeds")
    how = f", {matrix.how}" if matrix.how else ""
    return f"{matrix.metric.meaning}{unit}{how}; {better} is better" + (f"; {spread}" if spread else "")


def _row(matrix: Matrix, row: int, notes: Footnotes, many_models: bool) -> Line:
    cells = list(matrix.cells[row])
    entries = _entries(matrix, cells, notes, [matrix.is_own(row, column) for column in range(len(cells))])
    if many_models:
        entries.append(_plain(matrix.row_mean(row), matrix, notes))
    return Line((matrix.rows[row],), tuple(entries))


def _mean_line(matrix: Matrix, notes: Footnotes, many_models: bool) -> Line:
    cells = [matrix.column_mean(column) for column in range(len(matrix.columns))]
    entries = _entries(matrix, cells, notes, [False] * len(cells))
    if many_models:
        entries.append(Entry(""))
    return Line(("mean",), tuple(entries), apart=True)


def _entries(matrix: Matrix, cells: Sequence[Cell], notes: Footnotes, own: Sequence[bool]) -> list[Entry]:
    metric = matrix.metric
    ranked = [
        cell.value if cell.comparable and not column.baseline else None for cell, column in zip(cells, matrix.columns)
    ]
    ranks = rank_values(ranked, metric.higher_is_better, metric.digits)
    places = shades(ranked, metric.higher_is_better)
    rivals = [cell.value for cell, column in zip(cells, matrix.columns) if not column.baseline]
    entries = []
    for cell, column, rank, place, is_own in zip(cells, matrix.columns, ranks, places, own):
        better = baseline_note(column.title, cell, rivals, metric) if column.baseline else ""
        note = "; ".join(filter(None, [cell.note, better]))
        text = show_number(cell.value, metric.digits, cell.deviation)
        entries.append(Entry(text, cell.value, rank, is_own, place, notes.mark(note)))
    return entries


def baseline_note(title: str, cell: Cell, rivals: Sequence[float | None], metric: Metric) -> str:
    """What is said of a baseline's complete cell that is better than all numbers of models, incomplete ones too, at the
    digits shown; empty where it is not. Reacting more to noise is no merit."""
    own, *ranks = rank_values([cell.value, *rivals], metric.higher_is_better, metric.digits)
    wins = cell.comparable and own == BEST and BEST not in ranks
    return f"{title} is better than every model here" if wins and metric.name not in NOISE_METRICS else ""


def _plain(cell: Cell, matrix: Matrix, notes: Footnotes) -> Entry:
    text = show_number(cell.value, matrix.metric.digits)
    return Entry(text, cell.value, mark=notes.mark(cell.note))


def diagonal_summary(matrix: Matrix) -> str:
    """On how many of the rows that a model was made for such a one is the best; empty where none can be judged.

    A row that such a model shares with another, at the digits shown, is a tie and is told as one, and so is a row on
    which no such model has the number of a complete cell.

    The sentence begins with "By MEASURE (DETAIL), ", so that `merge_by_measure` can join those that say the same.
    """
    own = _own_places(matrix)
    rows = {row for row, _ in own}
    judged = {row for row, column in own if _is_complete(matrix.cells[row][column])}
    if not judged:
        return ""
    lines = matrix_grid(matrix).lines
    winners = [{entry.own for entry in lines[row].entries if entry.rank == BEST} for row in judged]
    won, tied = winners.count({True}), winners.count({True, False})
    noun = {"class": "classes", "kernel": "degradations"}[matrix.row_kind]
    ties = f"; on {tied} it ties with another" if tied else ""
    unknown = f"; on {len(rows - judged)} it has no complete number" if rows != judged else ""
    return (
        f"By {matrix.label}, on {won} of {len(rows)} {noun} the best model is one that was made for it{ties}{unknown}."
    )


def _own_places(matrix: Matrix) -> list[tuple[int, int]]:
    """(row, column) of each cell whose model was made for the row."""
    places = itertools.product(range(len(matrix.rows)), range(len(matrix.columns)))
    return [place for place in places if matrix.is_own(*place)]


def baseline_summary(matrix: Matrix) -> list[str]:
    """For each baseline, how many models beat it, at the digits shown, on the row that they were made for.

    Numbers of incomplete cells do not count, which is said. Empty without models that can be compared.
    """
    own = _own_places(matrix)
    metric = matrix.metric
    noun = f"their own {row_kind_label(matrix.row_kind)}"
    sentences = []
    for number, baseline in enumerate(matrix.columns):
        pairs = [(matrix.cells[row][column], matrix.cells[row][number]) for row, column in own]
        known = [[cell.value for cell in pair] for pair in pairs if all(map(_is_complete, pair))]
        if baseline.baseline and known:
            won = sum(rank_values(pair, metric.higher_is_better, metric.digits) == [BEST, SECOND] for pair in known)
            left = f", {len(own) - len(known)} could not be compared" if len(known) < len(own) else ""
            sentences.append(f"By {matrix.label}, {won} of {len(own)} models beat {baseline.title} on {noun}{left}.")
    return sentences


def _is_complete(cell: Cell) -> bool:
    return cell.comparable and cell.value is not None


def reader_notes(matrices: Sequence[Matrix], notes: Sequence[str]) -> list[str]:
    """What a reader must know first: the measures that have no number, then the notes that say other things."""
    absent = _absent_measures(matrices)
    others = [note for note in notes if not note.removesuffix(".").endswith(tuple(absent))]
    return [*(f"{labels}: no numbers. {reason}" for reason, labels in absent.items()), *others]


def _absent_measures(matrices: Sequence[Matrix]) -> dict[str, str]:
    """Why a matrix has no number at all -> the labels of those that have none for this reason.

    The reason is that of most cells: that one model failed is no reason why the others have no number. A measure that
    has numbers elsewhere is named with the split and the degradation that lack them.
    """
    measured = {matrix.metric.name for matrix in matrices if not matrix.is_empty}
    labels: dict[str, dict[str, None]] = {}
    for matrix in (matrix for matrix in matrices if matrix.is_empty):
        reasons = Counter(cell.note or "not scored" for line in matrix.cells for cell in line)
        most = [reason for reason, count in reasons.items() if count == max(reasons.values())]
        label = matrix.label if matrix.metric.name in measured else matrix.metric.label
        labels.setdefault("; ".join(most[:3]), {})[label] = None
    return {reason: ", ".join(names) for reason, names in labels.items()}
