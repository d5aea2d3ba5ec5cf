"""What a probing command finds: numbers with their intervals, what they say in words, and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from clipib.information.jackknife import Estimate

PASSED, FAILED, NOT_TESTABLE, NOTE = "passed", "FAILED", "not testable", "note"


class Measure(NamedTuple):
    """A number, its 95 % interval where there is one, what it is over, and what else it depends on."""

    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    params: Mapping[str, object] = {}


class Finding(NamedTuple):
    """A test, its verdict, and what that means in a sentence."""

    test: str
    verdict: str
    words: str


@dataclass
class Report:
    """Everything that was found of one checkpoint on one data set; figures by file name."""

    measures: list[Measure] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def add(self, metric: str, value: float | Estimate, *, n: int | None = None, **params: object) -> None:
        """A number or an estimate with its interval."""
        interval = (value.low, value.high) if isinstance(value, Estimate) else (None, None)
        number = value.value if isinstance(value, Estimate) else value
        self.measures.append(Measure(metric, float(number), *interval, n, params))

    def say(self, test: str, verdict: str, words: str) -> None:
        self.findings.append(Finding(test, verdict, words))

    def value(self, metric: str, **params: object) -> float:
        """The one number of that name whose params contain these."""
        (found,) = [m for m in self.measures if m.metric == metric and params.items() <= dict(m.params).items()]
        return found.value

    def verdict(self, test: str) -> str:
        (found,) = [f.verdict for f in self.findings if f.test == test]
        return found


def judge(report: Report, test: str, fails: bool, *, good: str, bad: str) -> None:
    """One sentence for either outcome of a test."""
    report.say(test, FAILED if fails else PASSED, bad if fails else good)
