from brainfeat.reporting.page import (
    fact_table,
    frame,
    notes,
    render_page,
    score_table,
)


def test_page_is_whole_and_fits_a_phone():
    page = render_page("a <b>", frame(["<h1>x</h1>", "<p>y</p>"]))
    assert page.startswith("<!DOCTYPE html>")
    assert "<title>a &lt;b&gt;</title>" in page
    assert 'content="width=device-width, initial-scale=1"' in page
    assert "<script" not in page
    assert "http" not in page


def test_style_comes_with_the_body_and_stays_in_it():
    body = frame(["<p>y</p>"])
    style = body[body.index("<style>") + 7 : body.index("</style>")]
    selectors = [part.split("{")[0] for part in style.split("}")[:-1]]
    names = [name.strip() for text in selectors for name in text.split(",")]
    assert names
    assert all(name.startswith(".brainfeat") for name in names)


def test_text_of_users_is_escaped():
    assert "&lt;x&gt;" in notes(["<x>"])
    assert "&lt;x&gt;" in fact_table({"<x>": "<y>"})
    assert "&lt;y&gt;" in score_table(("a", "b"), [("<x>", "<y>")])


def test_numbers_are_aligned_right():
    table = score_table(("features", "AUC"), [("embedding", "0.81")])
    assert "<td>embedding</td>" in table
    assert '<td class="number">0.81</td>' in table


def test_wide_table_scrolls_and_its_intervals_stay_whole():
    table = score_table(("features", "AUC"), [("embedding", "0.81 [0.70, 0.92]")])
    assert table.startswith('<div class="scroll" tabindex="0"><table>')
    assert '<td class="number">0.81 [0.70, 0.92]</td>' in table
    style = frame([])
    rules = {
        name.strip(): rule
        for name, _, rule in (part.partition("{") for part in style.split("}"))
    }
    assert "overflow-x: auto" in rules[".brainfeat .scroll"]
    assert "white-space: nowrap" in rules[".brainfeat.brainfeat .number"]
