import pytest

from clipib.errors import UserError
from clipib.registry import check_name, nearest, resolve


def test_nearest_ignores_case_and_finds_parts():
    assert nearest("vit-b-32", ["ViT-B-32", "RN50"])[0] == "ViT-B-32"
    assert nearest("b-32", ["ViT-B-32", "RN50"]) == ["ViT-B-32"]


def test_unknown_names_get_the_nearest_known_one():
    with pytest.raises(UserError, match="Unknown loss 'cbir'. Did you mean 'cibr'"):
        check_name("loss", "cbir", ["clip", "cibr"])


def test_resolve_imports_what_a_name_stands_for():
    from math import sqrt

    assert resolve("function", {"root": "math:sqrt"}, "root") is sqrt
