import json

import pytest

from anywidth.errors import CheckpointError
from anywidth.search import Front, Member, named, read_front, undominated, write_front
from anywidth.space.width import Width


def member(label: str, cost: float, error: float) -> Member:
    width = Width(names=("a", "b"), kept=(int(cost), 2))
    return Member(label=label, width=width, cost=cost, error=error, macs=int(cost), params=3)


def test_a_front_is_read_as_it_was_written(tmp_path):
    front = Front(members=(member("x", 1, 0.5), member("y", 2, 0.1)), budget="macs", about={"seed": 3})
    write_front(tmp_path / "front.json", front)
    assert read_front(tmp_path / "front.json") == front
    assert named(front, "y", tmp_path).cost == 2
    with pytest.raises(CheckpointError, match="no width is called 'z'; there are x, y"):
        named(front, "z", tmp_path)


def test_who_is_dominated():
    members = [
        member("a", 3, 0.2),
        member("b", 1, 0.5),
        member("c", 2, 0.5),
        member("d", 4, 0.2),
        member("e", 3, 0.3),
    ]
    assert [m.label for m in undominated(members)] == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a front of widths"),
        ('{"format": "anywidth.front/9"}', "is not a front of widths"),
        (
            '{"format": "anywidth.front/1", "budget": "macs", "about": {}, "members": []}',
            "the front is damaged",
        ),
        (
            '{"format": "anywidth.front/1", "budget": "macs", "about": {}, "members": [{"label": 1}]}',
            "is damaged",
        ),
    ],
)
def test_files_that_are_no_fronts(tmp_path, text, message):
    path = tmp_path / "front.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_front(path)
    with pytest.raises(CheckpointError, match="no such file; `anywidth search RUN` writes"):
        read_front(tmp_path / "none.json")


ROW = {"label": "x", "cost": 1.0, "error": 0.1, "macs": 1, "params": 1, "width": {"a": 2, "b": [0, 2]}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": [1]}, r"\[1\] is no dict"),
        ({"width": {"a": "x"}}, "'x' is no int"),
        ({"width": {"a": 2.5}}, "2.5 is no int"),
        ({"width": {"a": True}}, "True is no int"),
        ({"width": {"a": 0}}, "0 units of the group 'a'"),
        ({"width": {"a": []}}, "units of the group 'a'"),
        ({"width": {"a": [0, -1]}}, "units of the group 'a'"),
        ({"error": "no"}, "'no' is no float"),
        ({"error": float("nan")}, "nan is no finite number"),
        ({"cost": True}, "True is no"),
        ({"cost": None}, "None is no float"),
        ({"macs": None}, "None is no int"),
        ({"label": 1}, "1 is no str"),
        ({"label": ["x"]}, "is no str"),
    ],
)
def test_rows_that_are_damaged(tmp_path, change, message):
    path = tmp_path / "front.json"
    front = {"format": "anywidth.front/1", "budget": "macs", "about": {}}
    path.write_text(json.dumps({**front, "members": [ROW]}))
    assert read_front(path).members[0].width.units(1) == (0, 2)
    path.write_text(json.dumps({**front, "members": [{**ROW, **change}]}))
    with pytest.raises(CheckpointError, match=f"the front is damaged .*{message}"):
        read_front(path)
    path.write_text(json.dumps({**front, "members": [ROW, ROW]}))
    with pytest.raises(CheckpointError, match="labels of a front must differ"):
        read_front(path)


def test_labels_must_differ():
    with pytest.raises(
        ValueError, match=r"labels of a front must differ, and there must be one; got \['x', 'x'\]"
    ):
        Front(members=(member("x", 1, 0.5), member("x", 2, 0.1)), budget="macs")
    with pytest.raises(ValueError, match="there must be one"):
        Front(members=(), budget="macs")
