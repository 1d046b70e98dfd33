"""Published tables: figures that others reported, with their source, to stand beside one's own."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from evaluation.metrics import METRICS, Metric
from evaluation.report.grid import BEST, Entry, Footnotes, Grid, Head, Line, rank_values, shades, show_number
from harness.errors import InputError

REFERENCE = Path(__file__).parent / "reference"
_YES, _NO = {"yes", "true", "on", "ada", "with"}, {"no", "false", "off", "none", "without"}


@dataclass(frozen=True)
class Published:
    """A published table. `metric` is set where it is a matrix of classes and models by that measure."""

    title: str
    source: str
    notes: tuple[str, ...]
    metric: str | None
    frame: pd.DataFrame
    """All texts as printed: columns that are no measures are axes."""

    @property
    def axes(self) -> list[str]:
        return [column for column in self.frame.columns if column not in METRICS]

    @property
    def metrics(self) -> list[str]:
        return [column for column in self.frame.columns if column in METRICS]


def load_published(reference: str) -> Published:
    """Reads a published table: a name in evaluation/report/reference, or the path of a CSV of the same form.

    Its first lines are comments: `# title: ...`, `# source: ...`, `# note: ...`, and `# metric: NAME` for a matrix.

    Raises:
        InputError: there is no such table, it has no source, or a cell is no number.
    """
    path = REFERENCE / f"{reference}.csv"
    if not path.is_file():
        path = Path(reference)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in REFERENCE.glob("*.csv")))
        raise InputError(f"report.reference '{reference}': no such table or file; use one of {known}, or a CSV's path.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except ValueError:
        raise InputError(f"{path}: is no text in UTF-8; save it as such.") from None
    facts = [line[1:].split(":", 1) for line in lines if line.startswith("#") and ":" in line]
    found = {key.strip(): value.strip() for key, value in facts}
    notes = tuple(value.strip() for key, value in facts if key.strip() == "note")
    if "source" not in found:
        raise InputError(f"{path}: says no source; begin it with a line `# source: ...`.")
    metric = found.get("metric")
    if metric is not None and metric not in METRICS:
        raise InputError(f"{path}: '# metric: {metric}' is no measure; use one of {sorted(METRICS)}.")
    published = Published(found.get("title", path.stem), found["source"], notes, metric, _read(lines, path))
    _check_numbers(published, path)
    return published


def _read(lines: Sequence[str], path: Path) -> pd.DataFrame:
    try:
        rows = [row for row in csv.reader(line for line in lines if not line.startswith("#")) if row]
    except csv.Error as error:
        raise InputError(f"{path}: is no CSV table ({error}); mend it.") from None
    if not rows:
        raise InputError(f"{path}: is no CSV table (it holds no line of columns); mend it.")
    names = [name.strip() for name in rows[0]]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: names a column twice; rename one.")
    for row in rows[1:]:
        if len(row) != len(names):
            raise InputError(f"{path}: '{','.join(row)}' has {len(row)} values for {len(names)} columns; mend it.")
    return pd.DataFrame(rows[1:], columns=names, dtype=str)


def _check_numbers(published: Published, path: Path) -> None:
    columns = published.metrics if published.metric is None else list(published.frame.columns[1:])
    if not columns:
        raise InputError(f"{path}: has no column of a measure; name one of {sorted(METRICS)} in its first line.")
    if published.metric is None and not published.axes:
        raise InputError(f"{path}: has only measures; add a column that says which run each line stands for.")
    for column in columns:
        for text in published.frame[column]:
            try:
                float(text or "nan")
            except ValueError:
                raise InputError(f"{path}: '{text}' under '{column}' is no number; mend it.") from None


def published_grid(published: Published) -> Grid:
    """The published table as it was printed, ranked like one's own."""
    return _matrix(published) if published.metric else _table(published)


def _matrix(published: Published) -> Grid:
    metric = METRICS[str(published.metric)]
    titles = list(published.frame.columns[1:])
    lines = []
    for texts in published.frame.itertuples(index=False):
        values = [_number(text) for text in texts[1:]]
        entries = _entries(list(texts[1:]), values, metric)
        marked = tuple(
            Entry(e.text, e.value, e.rank, own=title == texts[0], shade=e.shade) for e, title in zip(entries, titles)
        )
        lines.append(Line((str(texts[0]),), marked))
    return _grid(published, ("class",), [Head(title) for title in titles], lines, "row")


def _table(published: Published) -> Grid:
    columns = [
        _entries(list(published.frame[name]), [_number(text) for text in published.frame[name]], METRICS[name])
        for name in published.metrics
    ]
    heads = published.frame[published.axes].itertuples(index=False)
    lines = [Line(tuple(map(str, head)), tuple(column[i] for column in columns)) for i, head in enumerate(heads)]
    titles = [Head(METRICS[name].label) for name in published.metrics]
    return _grid(published, tuple(published.axes), titles, lines, "column")


def _grid(published: Published, corner: tuple[str, ...], heads: list[Head], lines: list[Line], compared: str) -> Grid:
    notes = Footnotes()
    for note in published.notes:
        notes.mark(note)
    caption = f"published figures, quoted from {published.source}"
    return Grid(f"Published: {published.title}", caption, corner, tuple(heads), tuple(lines), notes.pairs(), compared)


def _entries(texts: list[str], values: list[float | None], metric: Metric) -> list[Entry]:
    digits = max((len(text.partition(".")[2]) for text in texts), default=0)
    ranks = rank_values(values, metric.higher_is_better, digits)
    places = shades(values, metric.higher_is_better)
    return [
        Entry(text or "–", value, rank, shade=None if rank == BEST else place)
        for text, value, rank, place in zip(texts, values, ranks, places)
    ]


def _number(text: str) -> float | None:
    value = float(text or "nan")
    return None if math.isnan(value) else value


def same_point(label: str) -> object:
    """A label in a form that can be compared: 100% and 1.0 are one, so are Yes and ada, so are No and none."""
    text = label.strip().lower()
    if text in _YES or text in _NO:
        return text in _YES
    try:
        return round(float(text[:-1]) / 100, 9) if text.endswith("%") else round(float(text), 9)
    except ValueError:
        return text


def match_lines(published: Published, rows: Sequence[Sequence[str]]) -> list[dict[str, str] | None]:
    """For each row of a sweep's labels (one an axis) the published line with the same, as metric -> printed text.

    A published axis is held against the one axis of the sweep that has most of its values: another's 1.0 is no 100%.
    """
    points = [[same_point(label) for label in labels] for labels in rows]
    places = {axis: _place_of(dict.fromkeys(published.frame[axis]), points) for axis in published.axes}
    lines = published.frame.to_dict("records")
    return [next((_figures(line, published) for line in lines if _fits(line, places, row)), None) for row in points]


def _place_of(texts: Iterable[str], points: Sequence[Sequence[object]]) -> int | None:
    """Which column of the points has most of the values; None where none has any, or several have as many."""
    values = [same_point(text) for text in texts]
    found = [sum(any(_equal(value, point) for point in column) for value in values) for column in zip(*points)]
    most = max(found, default=0)
    return found.index(most) if most and found.count(most) == 1 else None


def _fits(line: Mapping[str, str], places: Mapping[str, int | None], point: Sequence[object]) -> bool:
    return all(place is not None and _equal(same_point(line[axis]), point[place]) for axis, place in places.items())


def _figures(line: Mapping[str, str], published: Published) -> dict[str, str]:
    return {metric: line[metric] for metric in published.metrics}


def _equal(left: object, right: object) -> bool:
    return type(left) is type(right) and left == right


def published_entry(found: Mapping[str, str] | None, metric: str) -> Entry:
    """A cell that quotes a published figure as it was printed."""
    text = (found or {}).get(metric, "")
    return Entry(text, _number(text)) if text else Entry(show_number(None, 0))
