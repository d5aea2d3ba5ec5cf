"""JUnit XML of an evaluation: a suite per checkpoint, a case per metric, failures for gates, errors for trouble."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from clipib.tasks.results import Row

if TYPE_CHECKING:
    from clipib.tasks.verdicts import Verdict

NOT_IN_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
Key = tuple[str, str, str]  # model, pretrained, hash: a checkpoint


def junit(rows: Sequence[Row], verdicts: Sequence[Verdict] = (), *, failed: Sequence[tuple[str, str]] = ()) -> str:
    """The XML text.

    A case fails with the words of its failed gates. A gate that could not be judged, and whatever could not be
    computed, is an error: trouble with the pipeline, not with the checkpoint.

    Args:
        failed: what could not be computed, and why.
    """
    suites: dict[Key, list[ElementTree.Element]] = {}
    rows_of: dict[Key, list[Row]] = {}
    gates_of: dict[tuple, list[Verdict]] = {}
    for verdict in verdicts:
        gates_of.setdefault((_checkpoint(verdict), _place(verdict)), []).append(verdict)
    for row in rows:
        gates = gates_of.pop((_checkpoint(row), _place(row)), [])
        suites.setdefault(_checkpoint(row), []).append(_case(row.dataset, _name(row), gates, value=row.value))
        rows_of.setdefault(_checkpoint(row), []).append(row)
    for (checkpoint, _), gates in gates_of.items():
        name = _name(gates[0]) if gates[0].metric else gates[0].gate
        suites.setdefault(checkpoint, []).append(_case(gates[0].dataset, name, gates))
    root = ElementTree.Element("testsuites", name="clipib")
    for checkpoint, cases in suites.items():
        root.append(_suite(" ".join((*checkpoint[:2], checkpoint[2][:12])).strip(), cases, rows_of.get(checkpoint, [])))
    if failed:
        root.append(_suite("not done", [_trouble(name, why) for name, why in failed], []))
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(suite.get(count)) for suite in root)))
    ElementTree.indent(root)
    text = NOT_IN_XML.sub("", ElementTree.tostring(root, encoding="unicode"))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _checkpoint(item: Row | Verdict) -> Key:
    return item.model, item.pretrained, item.checkpoint_sha256


def _place(item: Row | Verdict) -> tuple[str, ...]:
    return item.dataset, item.split, item.metric, item.params


def _name(item: Row | Verdict) -> str:
    return item.metric + (f" ({item.params})" if item.params else "")


def _suite(name: str, cases: Sequence[ElementTree.Element], rows: Sequence[Row]) -> ElementTree.Element:
    counts = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    found = {count: str(sum(c.find(tag) is not None for c in cases)) for count, tag in counts.items()}
    suite = ElementTree.Element("testsuite", name=name or "clipib", tests=str(len(cases)), **found, time="0")
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in _properties(rows).items():
        ElementTree.SubElement(properties, "property", name=key, value=value)
    suite.extend(cases)
    return suite


def _properties(rows: Sequence[Row]) -> dict[str, str]:
    """What the numbers depend on: of the whole suite, and the hashes of each data set."""
    found: dict[str, str] = {}
    for column in ("checkpoint_sha256", "protocol", "precision", "device", "seed", "limit", "clipib_version"):
        values = dict.fromkeys(str(v) for r in rows if (v := getattr(r, column)) not in (None, ""))
        found |= {column: ", ".join(values)} if values else {}
    for row in rows:
        for column in ("data_sha256", "prompts_sha256"):
            if value := getattr(row, column):
                found[f"{column} {row.dataset} {row.split}".strip()] = value
    return found


def _case(dataset: str, name: str, gates: Sequence[Verdict], *, value: float | None = None) -> ElementTree.Element:
    """One metric: a failure goes before an error, and only one of them may stand in a case."""
    case = ElementTree.Element("testcase", classname=dataset or "gates", name=name, time="0")
    for verdicts, tag in ((("failed",), "failure"), (("no row", "no test"), "error")):
        bad = [g for g in gates if g.verdict in verdicts]
        if bad and not len(case):
            words = "; ".join(f"{g.gate}: {g.words}" for g in bad)
            ElementTree.SubElement(case, tag, message=words, type=bad[0].gate).text = "\n".join(map(_told, bad))
    told = ([] if value is None else [repr(value)]) + [f"{g.gate}: {g.verdict}, {g.words}" for g in gates]
    ElementTree.SubElement(case, "system-out").text = "\n".join(told)
    return case


def _told(gate: Verdict) -> str:
    columns = ("gate", "baseline", "value", "difference", "low", "high", "margin", "verdict")
    return ", ".join(f"{c} {v}" for c in columns if (v := getattr(gate, c)) is not None)


def _trouble(name: str, why: str) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname=name, name="evaluated", time="0")
    ElementTree.SubElement(case, "error", message=why, type="trouble").text = why
    return case
