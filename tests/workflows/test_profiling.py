from anywidth import workflows


def test_costs_are_those_of_the_network():
    profile = workflows.profile("SmallResNet", [0.5, 1.0], repeats=2)
    widths = profile.facts["widths"]
    assert [row["macs"] for row in widths] == [int(profile.net.macs(ratio)) for ratio in (0.5, 1.0)]
    assert [group["name"] for group in profile.facts["groups"]] == list(profile.net.space.names)
    assert profile.facts["input"] == [1, 8, 8]
