from clipib.tasks.markup import Html, details, join, table, tag


def test_everything_but_markup_is_escaped():
    assert tag("p", "<i>", title='"&') == '<p title="&quot;&amp;">&lt;i&gt;</p>'
    assert join(["<", [Html("<br>"), None, 3]]) == "&lt;<br>3"
    assert tag("img", alt=None, src="x", hidden=False) == '<img src="x">'
    assert details("<s>", "<t>", open_=True) == '<details open=""><summary>&lt;s&gt;</summary>&lt;t&gt;</details>'


def test_a_table_names_its_columns_and_lines():
    found = table(["a", "b"], [["<x>", 1]], caption="c")
    assert '<th scope="col" class="num">b</th>' in found and '<th scope="row">&lt;x&gt;</th>' in found
    assert '<p class="caption">c</p>' in found and '<td class="num">1</td>' in found
