import pytest

from clipib.data.prompts import prompts_sha256, read_templates
from clipib.errors import UserError


def test_the_hash_depends_on_order_and_words():
    assert prompts_sha256(["a", "b"], ["{c}"]) != prompts_sha256(["b", "a"], ["{c}"])


@pytest.mark.parametrize("text, message", [("", "empty"), ("a photo\n", "no {c}")])
def test_bad_template_files(tmp_path, text, message):
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_templates(tmp_path / "t.txt")
