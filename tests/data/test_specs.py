import pytest

from clipib.data.load import runnable
from clipib.data.specs import parse_spec, parse_specs, split_specs
from clipib.errors import UserError


@pytest.mark.parametrize(
    "text, pieces",
    [
        ("digitworld", ["digitworld"]),
        ("mnist, cifar10", ["mnist", "cifar10"]),
        ("folder:a,b", ["folder:a,b"]),
        ("folder:a,csv:b.csv", ["folder:a", "csv:b.csv"]),
        ("digitworld:objects=2+split=test,flickr30k:val", ["digitworld:objects=2+split=test", "flickr30k:val"]),
        ("digitworld/digit,digitworld/color", ["digitworld/digit", "digitworld/color"]),
        ('folder:"a,mnist",cifar10', ['folder:"a,mnist"', "cifar10"]),
        ("mnist,mnistish", ["mnist,mnistish"]),
        ("suite:vtab+,datacomp/svhn:test, all", ["suite:vtab+", "datacomp/svhn:test", "all"]),
        ("wds/vtab/cifar10,coco,digitworld", ["wds/vtab/cifar10", "coco", "digitworld"]),
        ("folder:a,suite", ["folder:a,suite"]),
    ],
)
def test_a_list_is_cut_only_before_known_kinds_and_names(text, pieces):
    assert split_specs(text) == pieces


def test_an_argument_that_exists_as_a_path_is_taken_whole(tmp_path):
    folder = tmp_path / "a,mnist"
    folder.mkdir()
    assert split_specs(f"folder:{folder},cifar10") == [f"folder:{folder}", "cifar10"]


def test_quotes_protect_the_path():
    assert parse_specs('folder:"a,mnist"')[0].argument == "a,mnist"


def test_names_take_a_split_and_digitworld_options():
    assert parse_spec("flickr30k:val")[:3] == ("name", "flickr30k", "val")
    spec = parse_spec("digitworld/digit:n=50+split=train")
    assert (spec.kind, spec.argument, spec.split, spec.options) == ("digitworld", "digit", "train", {"n": "50"})


@pytest.mark.parametrize(
    "text, message",
    [
        ("minst", "Did you mean 'mnist'"),
        ("mnist,cifar1000", "Unknown data set 'cifar1000'.*'cifar100'"),
        ("mnist,datacomp/svnh", "'datacomp/svnh'.*'datacomp/svhn'"),
        ("suite:vtab", r"Unknown suite 'vtab'.*'vtab\+'"),
        ("suite:", "names no suite"),
        ("vtab+", r"'vtab\+' is a suite"),
        ("al", "Unknown data set 'al'"),
        ("suite:vtab+:tset", "split 'tset'"),
        ("flickr30k:tset", "split 'tset'"),
        ("digitworld:object=2", "option 'object=2'"),
        ("folder:", "names no path"),
        ("", "No data set"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(UserError, match=message):
        parse_specs(text)


def test_a_path_without_its_kind_is_recognised(tmp_path):
    with pytest.raises(UserError) as error:
        parse_spec(str(tmp_path))
    assert error.value.hint == f"Write folder:{tmp_path}."


def test_a_suite_stands_for_its_entries():
    specs = parse_specs("suite:imagenet-robustness")
    assert [s.argument for s in specs] == ["imagenetv2", "imagenet_sketch", "imagenet-a", "imagenet-r", "objectnet"]
    assert {(s.kind, s.split, s.suite) for s in specs} == {("name", "", "imagenet-robustness")}
    assert {s.split for s in parse_specs("suite:retrieval:test")} == {"test"}
    assert parse_specs("cifar10")[0].suite == ""


def test_all_is_what_the_task_can_use():
    assert [s.argument for s in parse_specs("all", "caption")[:3]] == ["flickr8k", "flickr30k", "mscoco_captions"]
    assert len(parse_specs("all", "label")) + len(parse_specs("all", "caption")) == len(parse_specs("all")) == 82
    with pytest.raises(UserError, match="No data set of the suite 'retrieval' has labels"):
        parse_specs("suite:retrieval", "label")


def test_what_is_in_two_suites_or_named_beside_one_is_read_once_and_counts_in_each():
    specs = parse_specs(["suite:vtab+", "suite:imagenet-robustness,mnist"])
    suites = [s.suite for s in specs]
    assert (suites.count("vtab+"), suites.count("imagenet-robustness"), suites.count("")) == (36, 5, 1)
    read = runnable(specs)
    names = [s.argument for s in read]
    assert len(names) == len(set(names)) == 36
    assert [s.suite for s in read if s.argument == "mnist"] == [""]
    assert len(runnable(parse_specs("mnist,mnist"))) == 2


@pytest.mark.parametrize("text", ["wds/vtab/cifar10:test", "clip-benchmark/wds_vtab-cifar10:test", "CIFAR-10:test"])
def test_other_spellings_become_the_key(text):
    assert parse_spec(text)[:3] == ("name", "cifar10", "test")
    assert parse_spec("datacomp/svhn:test")[:3] == ("name", "datacomp/svhn", "test")
