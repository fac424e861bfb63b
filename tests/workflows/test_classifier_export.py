import pytest

from anywidth.errors import CheckpointError
from anywidth.search import Front, Member, write_front
from anywidth.workflows.classifier_export import classifier_exports
from anywidth.workflows.classifier_network import saved_classifier
from anywidth.workflows.run_directory import finished_classifier
from anywidth.workflows.task_options import ExportOptions


@pytest.fixture
def export(run, recorder):
    open_run = finished_classifier(run)
    net = saved_classifier(open_run)

    def exports(**options):
        return list(classifier_exports(open_run, net, ExportOptions(**options), recorder))

    return exports, net, run / "front.json"


def test_a_width_is_named_as_it_was_typed_and_calibrated_where_it_must_be(export, recorder):
    exports, net, _ = export
    assert [one.name for one in exports(width="S")] == ["S"]
    assert recorder.messages == []
    assert [one.name for one in exports(width="0.30")] == ["0.30"]
    assert [one.name for one in exports(width=0.3)] == ["0.3"]
    assert recorder.messages == ["calibrating 0.30"]
    assert net.has_statistics(0.3)


def test_of_a_front_all_members_are_written_or_the_one_that_is_named(export):
    exports, net, path = export
    members = [
        Member(label=label, width=net.width(width), cost=1.0, error=0.1, macs=1, params=1)
        for label, width in (("small", "S"), ("large", "XL"))
    ]
    write_front(path, Front(members=tuple(members), budget="macs"))
    assert [one.name for one in exports(front=path)] == ["small", "large"]
    assert [one.name for one in exports(front=path, width="large")] == ["large"]
    with pytest.raises(CheckpointError, match="no width is called 'middle'; there are small, large"):
        exports(front=path, width="middle")
