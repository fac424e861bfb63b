import json

import pytest

from anywidth.errors import CheckpointError
from anywidth.search import Greedy, closed_form, largest_uniform, run_search
from enumerated_searches import LIMITS, additive, budget, optimum, searchers
from meeting import Meeting


@pytest.mark.parametrize("name", ["greedy", "per cost", "evolve"])
def test_every_limit_is_met_and_nothing_beats_the_enumeration(net, name):
    errors = additive(net)
    front = run_search(searchers(net)[name], errors, closed_form(net, "macs"))
    assert [m.label for m in front.members] == ["macs=30%", "macs=60%"]
    for m in front.members:
        limit = LIMITS[m.label] * net.macs(1.0)
        assert m.cost == net.macs(m.width) == m.macs <= limit
        assert m.params == net.params(m.width)
        assert m.error == pytest.approx(errors([m.width])[0])
        assert m.error >= optimum(net, errors, limit) - 1e-12
        uniform = largest_uniform(net, closed_form(net, "macs"), limit)
        assert m.error <= errors([uniform])[0]


@pytest.mark.parametrize("name", ["greedy", "evolve"])
def test_a_search_goes_on_from_any_part_of_its_log(net, tmp_path, name):
    errors = additive(net)
    costs = closed_form(net, "macs")
    log = tmp_path / "search.jsonl"
    whole = run_search(searchers(net)[name], errors, costs, log=log)
    text = log.read_text()
    asked = []

    def counted(widths):
        asked.extend(widths)
        return errors(widths)

    ends = [i + 1 for i, letter in enumerate(text) if letter == "\n"]
    for cut in sorted({0, 5, *ends, *(end - 1 for end in ends), *(end - 9 for end in ends)}):
        log.write_text(text[:cut])
        asked.clear()
        assert run_search(searchers(net)[name], counted, costs, log=log) == whole
        assert log.read_text() == text
        if cut == len(text):
            assert not asked


@pytest.mark.parametrize("name", ["greedy", "evolve"])
def test_two_processes_search_as_one(net, name):
    """Both run at the same time in threads and exchange what they found."""
    import threading

    errors, costs = additive(net), closed_form(net, "macs")
    alone = run_search(searchers(net)[name], errors, costs)
    meeting, share = Meeting(), {0: 0, 1: 0}

    def process(rank, results):
        def counted(widths):
            share[rank] += len(widths)
            return errors(widths)

        results[rank] = run_search(searchers(net)[name], counted, costs, together=meeting.of(rank))

    results = {}
    threads = [threading.Thread(target=process, args=(rank, results)) for rank in range(2)]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    assert results == {0: alone, 1: alone}
    assert abs(share[0] - share[1]) <= alone.about.get("rounds", 20) + 2


def test_the_log_of_another_search_is_refused(net, tmp_path):
    log, costs = tmp_path / "search.jsonl", closed_form(net, "macs")

    def search(steps=4, **about):
        return run_search(Greedy(net, budget(net), steps=steps), additive(net), costs, log=log, about=about)

    assert search(images=100).about["images"] == 100
    with pytest.raises(CheckpointError, match=r"is the log of another search \(steps differ\)"):
        search(steps=2, images=100)
    with pytest.raises(CheckpointError, match=r"is the log of another search \(images differ\)"):
        search(images=200)
    records = [json.loads(line) for line in log.read_text().splitlines()]
    records[2]["widths"][0][0] += 1
    log.write_text("".join(json.dumps(r) + "\n" for r in records))
    with pytest.raises(CheckpointError, match="round 2 holds other widths"):
        search(images=100)


@pytest.mark.parametrize(
    "change",
    [
        {"round": 7},
        {"errors": [0.5]},
        {"errors": None},
        {"errors": ["a", "b", "c"]},
        {"errors": [0.1, float("nan"), 0.2]},
        {"widths": None},
    ],
)
def test_a_round_that_cannot_be_what_was_written(net, tmp_path, change):
    log, costs = tmp_path / "search.jsonl", closed_form(net, "macs")
    run_search(Greedy(net, budget(net), steps=4), additive(net), costs, log=log)
    lines = log.read_text().splitlines(keepends=True)
    lines[2] = json.dumps({**json.loads(lines[2]), **change}) + "\n"
    log.write_text("".join(lines))
    with pytest.raises(CheckpointError, match="line 3 is damaged"):
        run_search(Greedy(net, budget(net), steps=4), additive(net), costs, log=log)
    assert log.read_text() == "".join(lines)


def test_a_log_that_goes_on_after_the_search_is_damaged(net, tmp_path):
    log, costs = tmp_path / "search.jsonl", closed_form(net, "macs")
    run_search(Greedy(net, budget(net), steps=4), additive(net), costs, log=log)
    text = log.read_text()
    log.write_text(text + text.splitlines(keepends=True)[-1])
    with pytest.raises(CheckpointError, match=f"line {text.count(chr(10)) + 1} is damaged"):
        run_search(Greedy(net, budget(net), steps=4), additive(net), costs, log=log)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda widths: [0.5] * len(widths) + [0.5], "evaluate gave 2 errors for 1 widths"),
        (lambda widths: [], "evaluate gave 0 errors for 1 widths"),
        (lambda widths: [float("nan")] * len(widths), "evaluate gave an error of nan"),
        (lambda widths: [float("inf")] * len(widths), "evaluate gave an error of inf"),
    ],
)
def test_answers_that_cannot_be(net, tmp_path, answer, message):
    with pytest.raises(ValueError, match=message):
        run_search(
            Greedy(net, budget(net), steps=4), answer, closed_form(net, "macs"), log=tmp_path / "search.jsonl"
        )
    assert (tmp_path / "search.jsonl").read_text().count("\n") == 1  # the wrong answer is not kept


def test_answers_on_other_images_are_no_answers(net, tmp_path):
    def search(images):
        greedy = Greedy(net, budget(net), steps=4)
        log, costs = tmp_path / "log", closed_form(net, "macs")
        return run_search(greedy, additive(net), costs, log=log, about={"images": images})

    assert search(200) == search(200)
    with pytest.raises(CheckpointError, match=r"another search \(images differ\)"):
        search(20)
