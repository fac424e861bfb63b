from anywidth import workflows
from anywidth.models import SmallResNet
from anywidth.store import load


def test_the_saved_network_has_the_statistics(run):
    calibration = workflows.calibrate(run, [0.3], batches=2)
    assert calibration.widths == (0.3,)
    net = load(calibration.net, SmallResNet(channels=(8, 32, 64)))
    assert net.has_statistics(0.3)
    assert not net.has_statistics(0.7)


def test_listed_widths_keep_their_statistics(run, training):
    assert workflows.calibrate(run).widths == ("S", "M", "L", "XL")
    rows = workflows.evaluate(run, "listed").rows
    assert [row["accuracy"] for row in rows] == [row["accuracy"] for row in training[0].rows]
