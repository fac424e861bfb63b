from anywidth.workflows.reporter import SILENT, spoken_once


def test_of_several_processes_one_speaks(recorder, monkeypatch):
    assert spoken_once(recorder) is recorder
    monkeypatch.setenv("RANK", "0")
    assert spoken_once(recorder) is recorder
    monkeypatch.setenv("RANK", "1")
    assert spoken_once(recorder) is SILENT


def test_silence(capfd):
    SILENT.say("nothing")
    with SILENT.training() as report:
        report(None)
    assert capfd.readouterr() == ("", "")
