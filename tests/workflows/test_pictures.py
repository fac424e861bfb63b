import pytest

from anywidth.workflows.pictures import draw_accuracies, draw_curves, draw_gates, draw_precisions, draw_scales


@pytest.fixture
def axes_of(monkeypatch):
    """The axes of what a function draws; nothing is written."""
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: figures.append(self))

    def axes(draw, *arguments):
        draw(*arguments, title="net", path=None)
        return figures[-1].axes[0]

    return axes


def lines_of(axes) -> dict[str, list]:
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_points_are_where_the_numbers_say(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: figures.append(self))
    rows = [
        {"width": 0.5, "macs": 1000, "accuracy": 0.9, "images": 100, "listed": True},
        {"width": 0.7, "macs": 2000, "accuracy": 0.91, "images": 100, "listed": False},
        {"width": 1.0, "macs": 4000, "accuracy": 0.95, "images": 100, "listed": True},
    ]
    draw_accuracies(rows, title="net", path=tmp_path / "x.png")
    (axes,) = figures[0].axes
    bars, listed, unlisted = axes.collections
    half = 100 * (0.9 * 0.1 / 100) ** 0.5
    assert bars.get_segments()[0].tolist() == [
        [1000, pytest.approx(90 - half)],
        [1000, pytest.approx(90 + half)],
    ]
    listed, unlisted = (points.get_offsets().tolist() for points in (listed, unlisted))
    assert listed == [[1000, 90], [4000, 95]]
    assert unlisted == [[2000, 91]]
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.texts] == ["0.5\n90.0 %", "0.7\n91.0 %", "1.0\n95.0 %"]


def test_bars_of_scales_stand_at_the_middle_of_their_values(axes_of):
    axes = axes_of(draw_scales, {"histogram": {"counts": [5, 0, 2, 1], "top": 2.0}, "near_zero": 0.25})
    assert [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in axes.patches] == [
        (pytest.approx(0.25), 5), (pytest.approx(0.75), 0), (pytest.approx(1.25), 2), (pytest.approx(1.75), 1)
    ]  # fmt: skip
    assert axes.get_title() == "net; 25.0 % are below 0.01"


def test_each_kind_of_precision_has_a_curve(axes_of):
    rows = [
        {"width": 0.5, "macs": 100, "metrics": {"bbox": {"AP": 0.25}}},
        {"width": 1.0, "macs": 400, "metrics": {"bbox": {"AP": 0.5}, "segm": {"AP": 0.375}}},
    ]
    axes = axes_of(draw_precisions, rows)
    assert lines_of(axes) == {"box": [[100, 25], [400, 50]], "mask": [[400, 37.5]]}
    assert [text.get_text() for text in axes.texts] == ["0.5\n25.0", "1.0\n50.0", "1.0\n37.5"]


def test_curves_are_called_with_their_area(axes_of):
    curves = {
        "front": [{"macs_share": 0.5, "error": 0.25}, {"macs_share": 1.0, "error": 0.125}],
        "uniform": [{"macs_share": 0.5, "error": 0.5}],
    }
    axes = axes_of(draw_curves, curves, {"front": {"area": 0.1}, "uniform": {"area": 0.25}})
    assert lines_of(axes) == {
        "front: area 10.00 %": [[0.5, 25], [1, 12.5]],
        "uniform: area 25.00 %": [[0.5, 50]],
    }


def test_a_gate_is_drawn_beside_static_widths_and_other_biases(axes_of):
    static, sweep = [{"macs": 1e6, "accuracy": 0.5}], [{"macs": 2e6, "accuracy": 0.25}]
    axes = axes_of(draw_gates, {"static": static, "sweep": sweep, "gate": {"macs": 3e6, "accuracy": 0.75}})
    assert lines_of(axes) == {
        "static widths": [[1, 50]], "gated, bias swept": [[2, 25]], "gated, as trained": [[3, 75]]
    }  # fmt: skip
