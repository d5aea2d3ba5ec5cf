"""`clipib list datasets` and `clipib list suites`: readable in 80 columns, complete for machines."""

import csv
import io
import json

from typer.testing import CliRunner

from clipib.cli import app
from clipib.data.catalog import CATALOG, SUITES, suite_sha256


def listed(*arguments, columns=80):
    result = CliRunner().invoke(app, ["list", *arguments], env={"COLUMNS": str(columns)})
    assert result.exit_code == 0, result.output
    return result


def test_data_sets_fit_80_columns_and_no_name_is_broken():
    result = listed("datasets")
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert {"digitworld", *CATALOG} <= set(result.stdout.split())
    assert "datacomp/fairface cannot run: its class list mixes" in result.stderr


def test_what_a_set_is_about_is_shown_where_there_is_room():
    assert "German traffic signs" in listed("datasets", columns=200).stdout
    assert "German traffic signs" not in listed("datasets").stdout
    assert "dishes" in listed("datasets", "--filter", "food").stdout


def test_machines_get_every_fact():
    rows = {r["name"]: r for r in csv.DictReader(io.StringIO(listed("datasets", "--format", "csv").stdout))}
    assert set(CATALOG) < set(rows)
    row, entry = rows["datacomp/svhn"], CATALOG["datacomp/svhn"]
    assert (row["hub"], row["revision"], row["protocol"]) == (entry.hub, entry.revision, "datacomp")
    assert (row["images"], row["classes"], row["main_metric"]) == ("26032", "10", "acc1") and "MNIST" in row["note"]
    assert rows["flickr30k"]["bytes"] == "145600000" and rows["flickr30k"]["captions"] == "5000"
    assert rows["datacomp/winogavil"]["not_runnable"]


def test_suites_show_their_size_and_hash():
    text = listed("suites").stdout
    assert all(name in text and suite_sha256(s.entries)[:12] in text for name, s in SUITES.items())
    rows = {r["name"]: r for r in json.loads(listed("suites", "--format", "json").stdout)}
    assert (rows["datacomp"]["sets"], rows["datacomp"]["runnable"]) == (40, 35)
    assert rows["retrieval"]["images"] == 7000 and rows["vtab+"]["entries"].split() == list(SUITES["vtab+"].entries)
