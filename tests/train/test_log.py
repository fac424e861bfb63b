import math

from anywidth.train import log


def test_append_and_read(tmp_path):
    path = tmp_path / "log.jsonl"
    log.append(path, {"event": "a", "step": 1, "losses": (0.5, math.nan), "lr": math.inf})
    log.append(path, {"event": "b", "step": 2})
    assert log.read(path) == [
        {"event": "a", "step": 1, "losses": [0.5, "nan"], "lr": "inf"},
        {"event": "b", "step": 2},
    ]


def test_rewind_drops_what_came_later_and_a_line_cut_short(tmp_path):
    path = tmp_path / "log.jsonl"
    for step in (0, 5, 10, 11):
        log.append(path, {"step": step})
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    log.rewind_(path, step=10)
    assert log.read(path) == [{"step": 0}, {"step": 5}, {"step": 10}]


def test_rewind_without_a_log_does_nothing(tmp_path):
    log.rewind_(tmp_path / "log.jsonl", step=1)
    assert list(tmp_path.iterdir()) == []
