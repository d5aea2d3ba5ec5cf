"""P values adjusted within families, and the verdicts that go by them."""

import pytest
from made_runs import made_row
from scipy.stats import false_discovery_control

from clipib.tasks.adjusted import adjust_over_datasets, family_of, verdict_of


def test_each_family_is_adjusted_by_itself():
    p, families = [0.01, 0.2, None, 0.04, 0.03], ["a", "b", "a", "a", "b"]
    found = adjust_over_datasets(p, families)
    assert found[2] is None
    assert [found[0], found[3]] == pytest.approx(false_discovery_control([0.01, 0.04]))
    assert [found[1], found[4]] == pytest.approx(false_discovery_control([0.2, 0.03]))
    assert adjust_over_datasets([], []) == []


def test_a_family_is_one_metric_on_every_data_set():
    row = made_row("acc1", 0.5, params="overlap=val;x=1")
    other = made_row("acc1", 0.6, dataset="e", params="x=1")
    assert family_of(row, other) == family_of(other, row) == ("zeroshot", "strict", "acc1", "x=1")
    probes = [made_row("acc1", 0.5, dataset=d, params=f"probe=knn;shots=all;train={d}") for d in "de"]
    assert family_of(probes[0], probes[0]) == family_of(probes[1], probes[1])
    assert family_of(row, other) != family_of(made_row("acc5", 0.5), made_row("acc5", 0.5))


def test_a_verdict_goes_by_the_adjusted_p_and_the_better_direction():
    assert verdict_of("acc1", -0.1, 0.05) == "worse" and verdict_of("ece", -0.1, 0.05) == "better"
    assert verdict_of("acc1", 0.1, 0.051) == verdict_of("acc1", 0.0, 0.0) == "no difference shown"
