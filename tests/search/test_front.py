import json

import pytest

from anywidth.errors import CheckpointError
from anywidth.search import Front, Member, named, read_front, undominated, write_front
from anywidth.width import Width


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


def test_labels_must_differ(tmp_path):
    path = tmp_path / "front.json"
    write_front(path, Front(members=(member("x", 1, 0.5), member("x", 2, 0.1)), budget="macs"))
    assert len(json.loads(path.read_text())["members"]) == 2
    with pytest.raises(CheckpointError, match="labels that are not all different"):
        read_front(path)
