"""The page of a report as a whole: its head, what is compared, the overview, gates, settings and hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from clipib import __version__
from clipib.metrics.catalog import metric_of
from clipib.progress import counted
from clipib.tasks.contenders import Contender, Delta, Key, params_of
from clipib.tasks.markup import Html, details, join, table, tag
from clipib.tasks.report_charts import mark
from clipib.tasks.results import JSON_FILE, Row
from clipib.tasks.runs import Run

STYLE = Path(__file__).with_name("report.css")
MINUS = "\N{MINUS SIGN}"
ARROWS = {"better": "▲ better", "worse": "▼ worse", "no difference shown": "no difference shown"}
VERBS = {
    "better": "is better than",
    "worse": "is worse than",
    "no difference shown": "shows no difference from",
}

Deltas = Mapping[tuple[str, Key], Delta]  # by the contender's letter


def page(title: str, *body: object) -> str:
    """The whole document: one file that needs no other, no script and no network."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content=f"clipib {__version__}"),
        tag("title", title),
        tag("style", Html(STYLE.read_text(encoding="utf-8"))),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', tag('main', body)), lang='en')}\n"


def name_of(dataset: str, split: str) -> str:
    """A data set as headings call it."""
    return dataset if not split or dataset.endswith(split) else f"{dataset} ({split})"


def metric_name(metric: str, params: str) -> str:
    """A metric with what else its number depends on; of probes in words.

    Example:
        >>> metric_name("acc1", "probe=linear;shots=4"), metric_name("nll", "temperature=fit")
        ('acc1 (linear probe, 4 shots)', 'nll (temperature=fit)')
    """
    own = params_of(params)
    words = [f"{own['probe']} probe"] if "probe" in own else []
    if words and (shots := own.get("shots")):
        words.append("all images" if shots == "all" else counted(int(shots), "shot") if shots.isdecimal() else shots)
        own.pop("shots")
    if words:
        own.pop("probe")
    rest = ";".join(f"{name}={value}" if value else name for name, value in own.items())
    inside = ", ".join(filter(None, [*words, rest]))
    return f"{metric} ({inside})" if inside else metric


def badge(contender: Contender, place: int) -> Html:
    """A contender's letter with the mark that it has in charts."""
    shape = tag("svg", mark(place, 7, 7), width=14, height=14, viewBox="0 0 14 14", aria_hidden="true")
    return tag("span", shape, contender.letter, class_="letter")


def contender_list(contenders: Sequence[Contender]) -> Html:
    """Letter and name of each contender, and the runs that its rows stand in."""
    items = []
    for place, contender in enumerate(contenders):
        runs = ", ".join(dict.fromkeys(str(run.path) for run in contender.runs.values()))
        baseline = ", the baseline" if place == 0 and len(contenders) > 1 else ""
        about = tag("small", f" {runs}{baseline}")
        items.append(tag("li", badge(contender, place), contender.label, about))
    return tag("ul", items, class_="plain")


def headline(keys: Sequence[Key], contenders: Sequence[Contender], deltas: Deltas) -> list[Html]:
    """What the main metrics of one data set say in plain words, a paragraph for each checkpoint but the baseline."""
    name = name_of(keys[0].dataset, keys[0].split)
    if len(contenders) == 1:
        parts = [_statement(key, contenders[0].cells[key]) for key in keys]
        return [tag("p", tag("b", name), ": ", "; ".join(parts), ".")]
    base, lines = contenders[0], []
    for other in contenders[1:]:
        parts = [_comparison(key, base, other, deltas.get((other.letter, key))) for key in keys if key in other.cells]
        if parts:
            lines.append(tag("p", tag("b", name), f": {other.letter} ", "; ".join(parts), "."))
    if not lines:
        parts = [_statement(key, base.cells[key]) for key in keys if key in base.cells]
        lines.append(tag("p", tag("b", name), f", {base.letter} alone: ", "; ".join(parts), "."))
    return lines


def metric_table(
    keys: Sequence[Key], contenders: Sequence[Contender], deltas: Deltas, *, by_dataset: bool, caption: str
) -> Html:
    """One line a metric, one column a contender: value, 95 % interval, and difference to the baseline.

    Args:
        by_dataset: lines are named by data set and metric, else by the metric alone.
    """
    shown = [(i, c) for i, c in enumerate(contenders) if any(key in c.cells for key in keys)]
    header = ["data set" if by_dataset else "metric", "n", *(badge(c, i) for i, c in shown)]
    lines = []
    for key in keys:
        rows = [c.cells[key] for _, c in shown if key in c.cells]
        n = rows[0].n if len({r.n for r in rows}) == 1 else None
        cells = [_cell(c.cells.get(key), deltas.get((c.letter, key)), with_n=n is None) for _, c in shown]
        metric = metric_name(key.metric, key.params)
        if by_dataset:
            name = join([tag("a", name_of(key.dataset, key.split), href=f"#{anchor(key)}"), tag("small", metric)])
        else:
            name = join([metric, tag("small", words.words) if (words := metric_of(key.metric)) else None])
        lines.append([name, f"{n:,}" if n is not None else "", *cells])
    return table(header, lines, caption=caption)


def anchor(key: Key) -> str:
    """What links to a data set's section."""
    return "data-" + "".join(c if c.isalnum() else "-" for c in f"{key.dataset}-{key.split}")


def settings_section(runs: Sequence[Run], contenders: Sequence[Contender]) -> list[Html]:
    """Hashes, settings and environment: what one needs to get the same numbers again."""
    rows = [(c, key, row) for c in contenders for key, row in c.cells.items()]
    facts = dict.fromkeys(
        (c.letter, r.command, name_of(r.dataset, r.split), r.protocol, r.precision, r.device, str(r.seed),
         r.checkpoint_sha256, r.data_sha256, r.prompts_sha256, r.clipib_version)
        for c, _, r in rows
    )  # fmt: skip
    header = ["", "command", "data set", "protocol", "precision", "device", "seed", "checkpoint", "data", "prompts"]
    lines = [[*fact[:7], *(tag("code", h) for h in fact[7:10]), fact[10]] for fact in facts]
    hashes = table([*header, "clipib"], lines, left=len(header) + 1, caption="sha256 of checkpoint, data and prompts")
    parts = [tag("h2", "Settings and hashes", id="settings"), details("Hashes", hashes)]
    for run in runs:
        try:
            about = json.loads((run.samples.parent / JSON_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        parts.append(details(f"Settings and environment of {run.path}", tag("pre", json.dumps(about, indent=2))))
    return parts


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", MINUS)


def interval(row: Row) -> str:
    return f"{row.ci_low:.4f} to {row.ci_high:.4f}" if row.ci_low is not None and row.ci_high is not None else ""


def p_text(p: float) -> str:
    """A p value; of a tiny one the bound."""
    return f"p = {p:.4f}" if p >= 0.0001 else "p < 0.0001"


def _statement(key: Key, row: Row) -> str:
    """One number in words."""
    known, name = metric_of(row.metric), metric_name(key.metric, key.params)
    words = f"{known.words} ({name})" if known else name
    seeds = params_of(row.params).get("seeds")
    over = f" of the mean over {seeds} draws" if seeds else ""
    between = f" (95 % interval{over} {interval(row)})" if interval(row) else ""
    return (
        f"{words} {number(row.value)}{between}, n = {row.n:,}" if row.n is not None else f"{words} {number(row.value)}"
    )


def _comparison(key: Key, base: Contender, other: Contender, delta: Delta | None) -> str:
    """One difference in words, of which the other checkpoint is the subject."""
    row, known = other.cells[key], base.cells.get(key)
    n, name = f"n = {row.n:,}" if row.n is not None else "n not told", metric_name(key.metric, key.params)
    if known is not None and delta is None:
        return f"has {name} {number(row.value)}, {base.letter} {number(known.value)} ({n}; not compared)"
    if known is None:
        return f"has {name} {number(row.value)} ({n}), and {base.letter} has none"
    values = f"in {name}, {number(row.value)} against {number(known.value)}"
    if delta.value is None:
        return f"is not compared to {base.letter} {values} ({n}; {delta.why})"
    if delta.difference is None:
        return f"is {signed(delta.value)} from {base.letter} {values} ({n}; no interval: {delta.why})"
    between = f"{signed(delta.difference.low)} to {signed(delta.difference.high)}"
    told = f"(difference {signed(delta.value)}, 95 % interval {between}, adjusted {p_text(delta.p)}, {n})"
    return f"{VERBS[delta.verdict]} {base.letter} {values} {told}"


def _cell(row: Row | None, delta: Delta | None, *, with_n: bool) -> Html | str:
    if row is None:
        return tag("span", "\N{EN DASH}", class_="quiet")
    parts = [number(row.value), tag("small", interval(row)) if interval(row) else None]
    if seeds := params_of(row.params).get("seeds"):
        parts.append(tag("small", f"over {seeds} {'draw' if seeds == '1' else 'draws'}"))
    if with_n and row.n is not None:
        parts.append(tag("small", f"n = {row.n:,}"))
    if row.limit:
        parts.append(tag("small", f"partial: {row.limit:,}"))
    if row.n_ties:
        parts.append(tag("small", counted(row.n_ties, "tie")))
    if row.n_bad:
        parts.append(tag("small", f"{counted(row.n_bad, 'image')} unreadable"))
    return join([*parts, _delta(delta)])


def _delta(delta: Delta | None) -> Html | None:
    if delta is None:
        return None
    if delta.value is None:
        return tag("small", delta.why, class_="note")
    if delta.difference is None:
        return tag("small", f"{signed(delta.value)}, no interval: {delta.why}", class_="note")
    between = f"{signed(delta.value)} ({signed(delta.difference.low)} to {signed(delta.difference.high)})"
    marked = tag(
        "span",
        ARROWS[delta.verdict],
        class_=delta.verdict.split()[0] if delta.verdict != "no difference shown" else "quiet",
    )
    p = tag("span", f", {p_text(delta.p)}", class_="quiet")
    return join([tag("span", between, class_="delta"), tag("span", marked, p, class_="delta")])
