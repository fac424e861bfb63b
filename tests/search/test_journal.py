import pytest

from anywidth.errors import CheckpointError
from anywidth.search.journal import Journal

MINE = {"seed": 1, "sizes": [8, 8]}
RECORDS = [{"round": 0, "errors": [0.5]}, {"round": 1, "errors": [0.25, 1e-9]}]


@pytest.fixture
def log(tmp_path):
    book = Journal(tmp_path / "log", "search", MINE)
    assert book.open_() == []
    for record in RECORDS:
        book.append_(record)
    return tmp_path / "log"


def test_records_come_back(log):
    assert Journal(log, "search", MINE).open_() == RECORDS


def test_without_a_path_nothing_is_kept(tmp_path):
    book = Journal(None, "search", MINE)
    book.append_({"round": 0})
    assert book.open_() == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_cut_anywhere_gives_its_whole_lines(log):
    """And can be gone on with: the same records again give the same bytes."""
    whole = log.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(len(whole) + 1):
        log.write_bytes(whole[:cut])
        book = Journal(log, "search", MINE)
        found = book.open_()
        assert found == RECORDS[: max(0, whole[:cut].count(b"\n") - 1)]
        assert log.read_bytes() == whole[: max(first, whole[:cut].rfind(b"\n") + 1)]
        for record in RECORDS[len(found) :]:
            book.append_(record)
        assert log.read_bytes() == whole


@pytest.mark.parametrize("text", ["my notes\nmore of them\n", "my notes", "{}\n", "[1]\n", '"hello"\n', "\n"])
def test_the_file_of_something_else_is_left_alone(tmp_path, text):
    path = tmp_path / "notes"
    path.write_text(text)
    with pytest.raises(CheckpointError, match="notes: is not the log of a search; name another file"):
        Journal(path, "search", MINE).open_()
    assert path.read_text() == text


def test_what_differs_is_named(log):
    before = log.read_bytes()
    with pytest.raises(CheckpointError, match=r"is the log of another search \(seed, weights differ\)"):
        Journal(log, "search", {**MINE, "seed": 2, "weights": "x"}).open_()
    with pytest.raises(CheckpointError, match=r"is the log of another search \(sizes differ\)"):
        Journal(log, "search", {"seed": 1}).open_()
    with pytest.raises(CheckpointError, match="is not the log of a measurement"):
        Journal(log, "measurement", MINE).open_()
    assert log.read_bytes() == before


@pytest.mark.parametrize("line", ["{broken", "", "5", "[1]", "null", '{"round": '])
def test_damage_before_the_end_loses_nothing(log, line):
    """A crash cuts the end only; anything else is for the user to look at."""
    lines = log.read_text().split("\n")
    log.write_text("\n".join([lines[0], line, *lines[2:]]))
    before = log.read_bytes()
    with pytest.raises(CheckpointError, match="log: line 2 is damaged; put the file back"):
        Journal(log, "search", MINE).open_()
    assert log.read_bytes() == before


def test_bytes_that_are_no_text(log):
    log.write_bytes(log.read_bytes() + b"\xff\xfe\x00")
    assert Journal(log, "search", MINE).open_() == RECORDS


def test_no_number_is_not_recorded(log):
    with pytest.raises(ValueError, match="not JSON compliant"):
        Journal(log, "search", MINE).append_({"errors": [float("nan")]})
    assert Journal(log, "search", MINE).open_() == RECORDS
