import pytest

from anywidth.workflows.tables import accuracy_table, percent, precision_tables, si


def test_counts_with_prefixes():
    numbers = (0, 999, 1000, 12345, 1_814_073_344, 2.5e12)
    assert [si(number) for number in numbers] == ["0", "999", "1 k", "12.3 k", "1.81 G", "2.5 T"]


def test_percent():
    assert percent(0.98765) == "98.77 %"


@pytest.mark.parametrize(("top5", "shows"), [(0.99, True), (1, False)])
def test_top_5_is_shown_where_it_says_something(top5, shows):
    row = {
        "width": 0.5, "accuracy": 0.9, "top5": top5, "loss": 0.25, "macs": 2000, "macs_share": 0.5, "params": 10, "listed": True,
    }  # fmt: skip
    (line,) = accuracy_table("net", [row]).rows
    assert ("top-5" in line) == shows
    assert (line["accuracy"], line["MACs"], line["of the full"]) == ("90.00 %", "2 k", "0.500")


def test_a_table_for_each_kind_of_precision():
    row = {
        "width": 1.0, "metrics": {"bbox": {"AP": 0.5, "AP small": -1}, "segm": {"AP": 0.25}}, "params": 10,
        "macs_of_parts": {"backbone": 1000, "total": 2000}, "macs_share": 1.0,
    }  # fmt: skip
    box, mask, costs = precision_tables("net", [row])
    assert (box.title, box.rows) == ("net: box, %", [{"width": "1.0", "AP": "50.0", "AP small": "-"}])
    assert (mask.title, mask.rows) == ("net: mask, %", [{"width": "1.0", "AP": "25.0"}])
    assert costs.rows[0]["backbone"] == "1 k"
