"""The registry of evaluation sets: complete, equal to its sources, frozen."""

import importlib.resources
import json
import re

import pytest

from clipib.data.catalog import (
    CATALOG,
    LABEL_TASKS,
    SUITES,
    download_size,
    find_entry,
    suite_entries,
    suite_sha256,
)
from clipib.errors import UserError

METRICS = {
    "acc1",
    "mean_per_class_recall",
    "mean_average_precision",
    "macro_f1",
    "worst_group_acc1",
    "worst_group_acc5",
    "jaccard",
    "mean_recall@1",
}

# (images, classes) of the test split; 0 where the table gives none. From the tables of DataComp's tasklist.yml
DATACOMP = {
    "imagenet1k": (50000, 1000),
    "imagenetv2": (10000, 1000),
    "imagenet_sketch": (50889, 1000),
    "imagenet-a": (7500, 200),
    "imagenet-r": (30000, 200),
    "imagenet-o": (2000, 200),
    "objectnet": (18574, 113),
    "cifar10": (10000, 10),
    "cifar100": (10000, 100),
    "caltech101": (6085, 102),
    "food101": (25250, 101),
    "pets": (3669, 37),
    "flowers": (6149, 102),
    "dtd": (1880, 47),
    "eurosat": (5400, 10),
    "fgvc_aircraft": (3333, 100),
    "cars": (8041, 196),
    "sun397": (108754, 397),
    "stl10": (8000, 10),
    "gtsrb": (12630, 43),
    "country211": (21100, 211),
    "mnist": (10000, 10),
    "svhn": (26032, 10),
    "pcam": (32768, 2),
    "resisc45": (6300, 45),
    "renderedsst2": (1821, 2),
    "voc2007": (14976, 20),
    "kitti_closest_vehicle_distance": (711, 4),
    "clevr_count_all": (15000, 8),
    "clevr_closest_object_distance": (15000, 6),
    "flickr30k": (1000, 0),
    "mscoco_captions": (5000, 0),
}

# A published acc1 per set (CLIP_benchmark, benchmark/benchmark.csv): times the number of images it is a whole number.
PUBLISHED_ACC1 = {
    "imagenet1k": 0.63334,
    "imagenetv2": 0.6188,
    "imagenet_sketch": 0.42303837764546365,
    "imagenet-a": 0.3137333333333333,
    "imagenet-r": 0.7590333333333333,
    "objectnet": 0.4417465274038979,
    "cifar10": 0.8982,
    "cifar100": 0.6691,
    "stl10": 0.985875,
    "pets": 0.8893431452711911,
    "flowers": 0.7136119694259229,
    "dtd": 0.44574468085106383,
    "eurosat": 0.5072222222222222,
    "resisc45": 0.6666666666666666,
    "cars": 0.8415619947767691,
    "fgvc_aircraft": 0.24182418241824183,
    "sun397": 0.6246666789267521,
    "country211": 0.17151658767772512,
    "voc2007": 0.7824519230769231,
    "mnist": 0.4955,
    "svhn": 0.3628226797787339,
    "gtsrb": 0.43626286619160726,
    "fer2013": 0.4690721649484536,
    "renderedsst2": 0.7067545304777595,
    "pcam": 0.50628662109375,
    "diabetic_retinopathy": 0.337965783923131,
    "clevr_count_all": 0.19793333333333332,
    "clevr_closest_object_distance": 0.15933333333333333,
    "dmlab": 0.16749505168242798,
    "dsprites_label_orientation": 0.023234049479166668,
    "dsprites_label_x_position": 0.0313720703125,
    "smallnorb_label_azimuth": 0.062386831275720166,
    "smallnorb_label_elevation": 0.11786008230452674,
    "kitti_closest_vehicle_distance": 0.2883263009845288,
}


@pytest.mark.parametrize("key", CATALOG)
def test_every_entry_is_complete_and_consistent(key):
    entry = CATALOG[key]
    assert entry.name == key and entry.about and entry.listed_as and entry.split == "test"
    assert entry.task in (*LABEL_TASKS, "retrieval") and entry.protocol in ("clip_benchmark", "datacomp")
    assert key.startswith("datacomp/") == (entry.protocol == "datacomp")
    assert re.fullmatch(r"(clip-benchmark/wds_[\w-]+|djghosh/wds_[\w-]+_test|nlphuji/\w+)", entry.hub)
    assert re.fullmatch(r"([0-9a-f]{40})?", entry.revision)
    assert entry.counts["test"] > 0 and all(n > 0 for n in (*entry.counts.values(), *entry.captions.values()))
    assert all(size > 1e6 for size in entry.size_bytes.values())
    assert entry.main_metric in METRICS or (entry.not_runnable and not entry.main_metric)
    assert (entry.main_metric == "mean_recall@1") == (entry.task == "retrieval")
    assert entry.main_metric.startswith("worst_group") == bool(entry.group)
    assert not entry.group or entry.group in entry.metadata
    assert bool(entry.classes) == (entry.task in ("classification", "multilabel") and not entry.not_runnable)
    assert not entry.note.endswith(".") and not entry.not_runnable.endswith(".")


@pytest.mark.parametrize("key", [k for k, e in CATALOG.items() if e.names_key or e.templates_key])
def test_vendored_names_number_the_classes_and_prompts_take_a_name(key):
    entry = CATALOG[key]
    assert len(entry.classnames) in (0, entry.classes) and bool(entry.classnames) == bool(entry.names_key)
    assert entry.templates and all(t.count("{c}") == 1 and t.format(c="x") for t in entry.templates)


def test_vendored_names_are_those_of_clip_benchmark(shared_data):
    folder = shared_data("zero_shot_names")
    vendored = json.loads(importlib.resources.files("clipib.data").joinpath("names.json").read_text("utf-8"))
    for section, own in (("classnames", 5), ("zeroshot_classification_templates", 0)):
        theirs = json.loads((folder / f"clip_benchmark_en_{section}.json").read_text("utf-8"))
        theirs.pop("dummy", None)
        ours = vendored[section.removeprefix("zeroshot_classification_")]
        assert {k: ours[k] for k in theirs} == theirs and len(ours) == len(theirs) + own
    openai = json.loads((folder / "open_clip_imagenet.json").read_text("utf-8"))
    assert list(CATALOG["imagenet1k"].classnames) in openai.values()


def test_the_quirks_of_names_are_kept():
    imagenet = CATALOG["imagenet1k"].classnames
    assert [n for n in sorted(set(imagenet)) if imagenet.count(n) > 1] == ["missile", "sunglasses"]
    assert CATALOG["clevr_closest_object_distance"].classnames[3] == ""
    assert CATALOG["svhn"].classnames[:2] == ("zero", "one") and CATALOG["mnist"].classnames[:2] == ("0", "1")
    for key in ("imagenet-a", "imagenet-r", "imagenet-o"):
        remaining = iter(imagenet)
        assert all(name in remaining for name in CATALOG[key].classnames), f"{key} is not in ImageNet's order"
    # the hub's classnames.txt has this many bytes, one name per line
    for key, size in {"imagenet-r": 2030, "caltech101": 971, "pets": 469, "gtsrb": 2160, "dmlab": 94}.items():
        assert sum(len(n.encode()) + 1 for n in CATALOG[key].classnames) == pytest.approx(size, abs=5)


def test_the_six_first_entries_are_as_they_were():
    assert CATALOG["mnist"].classnames == tuple("0123456789")
    assert CATALOG["mnist"].templates == ('a photo of the number: "{c}".',)
    assert CATALOG["mnist"].counts == {"train": 60000, "test": 10000}
    assert CATALOG["cifar10"].classnames[::9] == ("airplane", "truck") and len(CATALOG["cifar10"].templates) == 18
    assert CATALOG["stl10"].templates == ("a photo of a {c}.", "a photo of the {c}.")
    assert CATALOG["stl10"].counts == {"train": 5000, "test": 8000}
    assert (CATALOG["flickr8k"].counts, CATALOG["flickr8k"].captions) == (
        {"train": 6000, "val": 1000, "test": 1000},
        {"test": 5000},
    )
    assert CATALOG["flickr30k"].counts == {"train": 29000, "val": 1014, "test": 1000}
    assert CATALOG["mscoco_captions"].captions == {"test": 25010}


@pytest.mark.parametrize("prefix", ["", "datacomp/"])
def test_counts_and_classes_are_those_of_the_task_list(prefix):
    found = {k: (CATALOG[prefix + k].counts["test"], CATALOG[prefix + k].classes) for k in DATACOMP}
    assert found == DATACOMP


def test_datacomp_has_40_tasks_38_main_metrics_and_732026_images():
    entries = [CATALOG[k] for k in SUITES["datacomp"].entries]
    assert (len(entries), sum(bool(e.main_metric) for e in entries)) == (40, 38)
    assert sum(e.counts["test"] for e in entries) == 732026
    assert sum(e.main_metric == "mean_per_class_recall" for e in entries) == 4
    assert all(e.revision for e in entries)


@pytest.mark.parametrize("key", PUBLISHED_ACC1)
def test_published_accuracies_are_fractions_of_the_counts(key):
    hits = PUBLISHED_ACC1[key] * CATALOG[key].counts["test"]
    assert hits == pytest.approx(round(hits), abs=1e-6)


def test_the_suites_are_frozen():
    assert {name: (len(s.entries), suite_sha256(s.entries)[:12]) for name, s in SUITES.items()} == {
        "vtab+": (36, "b53754d7adbb"),
        "imagenet-robustness": (5, "ed407a693d83"),
        "datacomp": (40, "db5e79aee8dd"),
        "retrieval": (3, "c948092b31a1"),
        "all": (82, "6c4ac36d5633"),
    }
    assert SUITES["all"].entries == tuple(CATALOG)
    assert SUITES["datacomp"].entries == tuple(k for k in CATALOG if k.startswith("datacomp/"))


def test_the_suites_cover_the_collections_of_clip_benchmark():
    pytest.importorskip("requests")
    builder = pytest.importorskip("clip_benchmark.datasets.builder")
    theirs = {name: {find_entry(k) for k in keys} for name, keys in builder.dataset_collection.items()}
    assert theirs["vtab"] < set(SUITES["vtab+"].entries)
    for name, suite in (
        ("vtab+", "vtab+"),
        ("imagenet_robustness", "imagenet-robustness"),
        ("retrieval", "retrieval"),
    ):
        assert theirs[name] == set(SUITES[suite].entries)


def test_a_task_takes_its_part_of_a_suite():
    labelled, captioned = suite_entries("all", "label"), suite_entries("all", "caption")
    assert set(labelled) | set(captioned) == set(CATALOG) and not set(labelled) & set(captioned)
    assert "datacomp/winogavil" in labelled and "voc2007_multilabel" in labelled
    assert captioned == ("flickr8k", "flickr30k", "mscoco_captions", "datacomp/flickr30k", "datacomp/mscoco_captions")
    assert suite_entries("imagenet_robustness") == SUITES["imagenet-robustness"].entries
    with pytest.raises(UserError, match=r"Unknown suite 'vtab'.*'vtab\+'"):
        suite_entries("vtab")


@pytest.mark.parametrize(
    "name, key",
    [
        ("cifar10", "cifar10"),
        ("CIFAR-10", "cifar10"),
        ("vtab/cifar10", "cifar10"),
        ("wds/vtab/cifar10", "cifar10"),
        ("wds_vtab-cifar10", "cifar10"),
        ("clip-benchmark/wds_vtab-cifar10", "cifar10"),
        ("coco", "mscoco_captions"),
        ("imagenet", "imagenet1k"),
        ("imagenet-v2", "imagenetv2"),
        ("wds/imagenet-a", "imagenet-a"),
        ("vtab/svhn", "svhn"),
        ("datacomp/vtab/svhn", "datacomp/svhn"),
        ("djghosh/wds_vtab-svhn_test", "datacomp/svhn"),
        ("nlphuji/winogavil", "datacomp/winogavil"),
        ("wilds/fmow", "datacomp/fmow"),
        ("fairness/geode", "datacomp/geode"),
        ("iwildcam", "datacomp/iwildcam"),
        ("datacomp", None),
        ("wds/", None),
        ("", None),
        ("cifar", None),
    ],
)
def test_names_are_found_under_the_spellings_people_paste(name, key):
    assert find_entry(name) == key


def test_the_same_name_in_two_protocols_is_two_entries():
    ours, theirs = CATALOG["svhn"], CATALOG["datacomp/svhn"]
    assert ours.hub != theirs.hub and len(ours.templates) == 6 and theirs.templates == ()


def test_sizes_add_up_and_what_is_unknown_is_counted():
    known, unknown = download_size(["flickr30k", "flickr8k"])
    assert known == pytest.approx(145.6e6) and unknown == 1


def test_what_cannot_run_says_why():
    stopped = [k for k, e in CATALOG.items() if e.not_runnable]
    assert stopped == [f"datacomp/{k}" for k in ("fairface", "utkface", "flickr30k", "mscoco_captions", "winogavil")]


def test_the_licence_of_the_names_ships():
    text = importlib.resources.files("clipib.data").joinpath("NAMES_LICENSE.txt").read_text("utf-8")
    assert "Copyright (c) 2022, Mehdi Cherti" in text and "MIT License" in text
