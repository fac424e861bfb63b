from anywidth import workflows


def test_trained_and_evaluated_widths_by_cost(run, training, rows_in):
    workflows.evaluate(run, [0.4])
    report = workflows.report(run)
    assert report.rows == rows_in(run / "report.json")
    assert {str(row["width"]) for row in report.rows} == {"S", "M", "L", "XL", "0.4"}
    assert [row["macs"] for row in report.rows] == sorted(row["macs"] for row in report.rows)
    assert report.figures == (run / "report.png", run / "scales.png")
    assert [row["width"] for row in report.tables[0].rows] == [str(row["width"]) for row in report.rows]
