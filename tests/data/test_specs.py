import pytest

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
        ("mnist,cifar100", "Unknown data set 'cifar100'.*'cifar10'"),
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
