"""The comparison of answers sees what it must see: a conformance run is worth no more than this."""

from harness.answers import compare

ROWS = [["a", 1, "10.50", 0.1 + 0.2], ["b", None, "7.00", 2.5], ["a", 1, "10.50", 7.0]]


def changed(row: int, column: int, value) -> list[list]:
    rows = [list(r) for r in ROWS]
    rows[row][column] = value
    return rows


def test_the_order_of_rows_does_not_matter():
    same = compare(ROWS, ROWS[::-1])
    assert (same.difference, same.inexact, same.worst) == (None, 0, 0.0)


def test_last_bits_of_a_double_are_let_pass_and_counted():
    same = compare(ROWS, changed(0, 3, 0.3))
    assert same.difference is None
    assert same.inexact == 1
    assert 0 < same.worst < 1e-15


def test_a_double_that_is_another_number_is_a_difference():
    for other in (0.3000001, -0.3, 0.0, float("nan"), float("inf"), None):
        assert compare(ROWS, changed(0, 3, other)).difference


def test_not_a_number_equals_itself():
    assert compare(changed(0, 3, float("nan")), changed(0, 3, float("nan"))).difference is None


def test_other_types_are_compared_exactly():
    for column, value in ((0, "A"), (1, 2), (1, None), (1, 1.0), (2, "10.5")):
        assert compare(ROWS, changed(0, column, value)).difference


def test_a_row_more_less_or_twice_is_a_difference():
    assert compare(ROWS, ROWS[:-1]).difference == "3 and 2 rows"
    assert compare(ROWS, [*ROWS, ROWS[0]]).difference == "3 and 4 rows"
    assert compare(ROWS, [ROWS[0], ROWS[1], ROWS[0]]).difference
