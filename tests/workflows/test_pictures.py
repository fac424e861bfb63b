import pytest

from anywidth.workflows.pictures import draw_accuracies


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
