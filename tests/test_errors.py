import pytest

from clipib.errors import UserError, try_all


def fail(message, hint=""):
    def step():
        raise UserError(message, hint=hint)

    return step


def test_all_that_failed_is_told_in_one_message_and_no_hint_twice():
    def nested():
        return try_all((fail("b", "mend b\ncommon"), fail("c", "common")))

    with pytest.raises(UserError) as error:
        try_all((fail("a", "common"), lambda: 1, nested))
    assert error.value.message == "- a\n- b\n- c"
    assert error.value.hint == "common\nmend b"


def test_one_failure_stays_as_it_is_and_none_gives_the_results():
    with pytest.raises(UserError) as error:
        try_all((lambda: 1, fail("a", "h")))
    assert (error.value.message, error.value.hint) == ("a", "h")
    assert try_all((lambda: 1, lambda: 2)) == [1, 2]
