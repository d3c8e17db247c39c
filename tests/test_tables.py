"""Tables of pages: what their HTML holds, and refused rows."""

import pytest

from support.tables import table


def test_numbers_get_minus_signs_and_names_do_not_break():
    assert "<thead><tr><td></td>" in table(("", "x"), []).data, "a column of names has an empty head"
    html = table(("method", "points"), [("MSGD-Cov", "-0.5 ± 1 [-2, 3e-4]")]).data
    assert '<th scope="col">method</th><th scope="col">points</th>' in html
    assert "MSGD\u2011Cov" in html
    first = table(("law", "x"), [("[MSGD-Cov]-8", 1), ("-3 to -.5", 2)]).data
    assert "[MSGD\u2011Cov]\u20118" in first and "\u22123 to \u2212.5" in first
    assert "\u22120.5&nbsp;±&nbsp;1 [\u22122,&nbsp;3e-4]" in html


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="3 cells, the head has 2"):
        table(("a", "b"), [(1, 2, 3)])
