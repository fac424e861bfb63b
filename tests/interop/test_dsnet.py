"""Files of DS-Net's reference code: widths, statistics, the slimming head; outputs against an independent program."""

import logging
from functools import cache

import pytest
import torch
from torch import Tensor

import anywidth as aw
from anywidth.errors import CheckpointError, WidthError
from anywidth.gating import Cut, DynamicNet, Routes, gate_of
from anywidth.interop import dsnet
from dsnet_files import X, assert_computes, doubled, load, relative, save, stored
from dsnet_reference import HEAD, LARGEST, ROWS, TABLES, channels, forward, shapes

LABELS = (*range(14), "smallest", "largest")


def test_the_reference_has_the_published_layout():
    tensors = shapes()
    sizes = [torch.Size(s).numel() for n, s in tensors.items() if not n.endswith(("mean", "var", "tracked"))]
    assert (len(tensors), sum(sizes)) == (838, 7_676_204)


@cache
def published() -> aw.Elastic:
    return dsnet.new()


def test_groups_are_the_stem_and_the_stages():
    net = published()
    assert {g.name: g.size for g in net.space.groups} == {
        "stem": 24, "stages.0": 88, "stages.1": 168, "stages.2": 264, "stages.3": 640, "stages.4": 1152,
    }  # fmt: skip
    assert all(g.permutable for g in net.space.groups)
    assert not net.space.unknown


def test_labels():
    net = published()
    assert tuple(net.widths) == LABELS
    assert net.widths == dsnet.widths(net)
    for label in LABELS:
        assert list(net.space.channels(net.width(label)).values()) == channels(label)
    assert net.width("smallest") == net.width(0)
    assert net.width("largest") == net.space.full
    assert net.width(13) != net.space.full


@pytest.mark.parametrize("k", range(14))
def test_published_costs(k):
    *_, c3, c4 = channels(k)
    macs, params = published().macs(k, convention="slimmable"), published().params(k)
    assert (c3, c4, macs, params, round(macs / 1e6)) == ROWS[k]


def test_published_costs_of_the_largest():
    net = published()
    assert (net.macs("largest", convention="slimmable"), net.params("largest")) == LARGEST[2:]


@pytest.mark.parametrize("label", [0, 7, 13, "largest"])
def test_costs_by_the_published_formula(label):
    c, sizes = channels(label), (112, 112, 56, 28, 14, 7)
    total = 27 * c[0] * 112**2 + 49 * c[5] + 1000 * c[5]
    for s, blocks in enumerate((1, 2, 2, 6, 2)):
        for before in (c[s], *[c[s + 1]] * (blocks - 1)):
            wide = (channels("largest"))[c.index(before)]
            total += (
                before * sizes[s + 1] ** 2 * 10
                + 2 * before * (wide // 4)
                + before * c[s + 1] * sizes[s + 1] ** 2
            )
    assert published().macs(label, convention="slimmable") == total


def test_hidden_channels_of_attentions_stay():
    small = published().extract(0)
    attention = small.stages[4][0].depthwise.attention
    assert attention.squeeze.reduce.weight.shape == (160, 224, 1, 1)
    assert attention.expand.weight.shape == (224, 160, 1, 1)


def test_networks_of_other_channels():
    tables = ((4, 8), (8, 12), (12, 16), (16, 24), (16, 24, 32), (24, 36, 48))
    options = {"blocks": (1, 1, 2, 2, 1), "strides": (1, 1, 2, 2, 2), "stem_stride": 1}
    net = dsnet.new(num_classes=10, image_size=32, candidates=tables, model_options=options)
    assert list(net.widths) == [0, 1, 2, "smallest", "largest"]
    assert list(net.width(1).values()) == [4, 8, 12, 16, 24, 36]
    assert net.params(0) < net.params(1) < net.params(2) < net.params("largest")
    other = dsnet.new(widths=[0.5, 1.0], image_size=32, candidates=tables, model_options=options)
    assert list(other.width(0.5).values()) == [4, 6, 8, 12, 16, 24]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ((), "candidates: expected a table for the stem and one for each stage, got none"),
        (((4, 8), ()), r"candidates 1: expected increasing numbers of channels, got \(\)"),
        (((4, 4), (8,)), r"candidates 0: expected increasing .* got \(4, 4\)"),
        (((4, 8, 12), (8, 16, 24, 32)), "candidates 0: has 3 entries and the longest table 4"),
    ],
)
def test_candidates_that_cannot_be(tables, message):
    with pytest.raises(ValueError, match=message):
        dsnet.new(candidates=tables)


def test_a_loaded_network_computes_what_the_reference_computes(tmp_path):
    net = load(save(tmp_path / "a.pth.tar"))
    assert tuple(net.widths) == LABELS
    assert all(net.has_statistics(label) for label in LABELS)
    assert_computes(net, stored(), (0, 3, 7, 13, "smallest", "largest"))


def test_the_comparison_sees_images_widths_and_statistics(tmp_path):
    net, state = load(save(tmp_path / "a.pth.tar")).double().eval(), doubled(stored())
    changed = state | {"bn1.aux_bn.0.running_mean": state["bn1.aux_bn.0.running_mean"] + 0.1}
    with torch.no_grad():
        got = net.at(3)(X)
        assert relative(got[0], got[1]) > 0.1
        assert relative(got, forward(state, X, channels(4))) > 1e-3
        assert relative(got, forward(changed, X, channels(3))) > 1e-4


def test_each_width_has_the_statistics_of_its_channels(tmp_path):
    net, state = load(save(tmp_path / "a.pth.tar")), stored()
    for label in LABELS:
        view, wide = net.eval().at(label), label == "largest"
        k = 13 if wide else 0 if label == "smallest" else label
        for norm, name in (
            (view.stem.norm, f"bn1.aux_bn.{int(wide)}"),
            (view.stages[3][0].depthwise.norm, f"blocks.3.first_block.bn1.aux_bn.{int(wide)}"),
            (view.stages[3][5].pointwise.norm, f"blocks.3.residual_blocks.4.bn2.aux_bn.{k}"),
            (view.stages[4][0].depthwise.norm, f"blocks.4.first_block.bn1.aux_bn.{k}"),
        ):
            assert torch.equal(norm.running_mean, state[f"{name}.running_mean"])
            assert torch.equal(norm.running_var, state[f"{name}.running_var"])


def test_widths_of_the_tables_and_others(tmp_path):
    listed = {
        "mixed": [*channels(5)[:5], 1152],
        "wide": [24, 88, 168, 264, 256, 768],
        "other": [16, 32, 48, 96, 230, 768],
    }
    net = load(save(tmp_path / "a.pth.tar"), widths=listed)
    assert [net.has_statistics(label) for label in listed] == [True, True, False]
    net, state = net.double().eval(), doubled(stored())
    with torch.no_grad():
        for label in ("mixed", "wide"):
            assert relative(net.at(label)(X), forward(state, X, listed[label])) < 1e-10
    assert relative(net(X).detach(), forward(state, X, channels("largest"))) < 1e-10


@torch.no_grad()
def recalibrated() -> dict[str, Tensor]:
    """As the published recalibration leaves files: norms of the wide early stages have means 0 and variances 1."""
    state = dict(stored())
    for name, tensor in state.items():
        if ".aux_bn.1.running" in name and tensor.numel() in (24, 88, 168, 264):
            state[name] = torch.full_like(tensor, float(name.endswith("var")))
    return state


def test_files_whose_largest_network_was_never_measured(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        net = load(save(tmp_path / "a.pth.tar", recalibrated()))
    assert "12 batch norms of 'largest' have means 0 and variances 1 (like 'stem.norm')" in caplog.text
    assert all(net.has_statistics(label) for label in LABELS)
    assert_computes(net, recalibrated(), (0, 13))
    net.float().calibrate([X.float()], widths=["largest"], batches=1)
    assert net.model.stem.norm.running_mean.any()


def test_a_width_with_norms_that_were_never_measured_asks_for_calibration(tmp_path):
    net = load(save(tmp_path / "a.pth.tar", recalibrated()), widths={"wide": [24, 88, 168, 264, 256, 768]})
    assert not net.has_statistics("wide")
    with pytest.raises(aw.errors.StatisticsError, match="width 'wide' has no batch-norm statistics"):
        net.eval().at("wide")(X.float())


def test_saved_and_loaded_again(tmp_path):
    load(save(tmp_path / "a.pth.tar")).save(tmp_path / "net.safetensors")
    again = aw.load(tmp_path / "net.safetensors", aw.models.DSMBNet(7))
    assert tuple(again.widths) == LABELS
    assert_computes(again, stored(), (0, 9, "largest"))


def test_the_moving_average_comes_first(tmp_path):
    average = {n: t + 0.01 if t.ndim else t for n, t in stored().items()}
    path = save(tmp_path / "a.pth.tar", state_dict_ema=average)
    assert_computes(load(path), average)
    assert_computes(load(path, ema=True), average)
    assert_computes(load(path, ema=False), stored())
    assert torch.equal(dsnet.head(path), average[HEAD])
    assert torch.equal(dsnet.head(path, ema=False), stored()[HEAD])
    plain = save(tmp_path / "b.pth.tar")
    with pytest.raises(CheckpointError, match=r"holds no moving average \('state_dict_ema'\); .*ema=False"):
        load(plain, ema=True)


def test_classes(tmp_path):
    path = save(tmp_path / "a.pth.tar")
    assert load(path, num_classes=7).model.classifier.out_features == 7
    with pytest.raises(CheckpointError, match="holds 7 classes, expected num_classes = 1000"):
        load(path, num_classes=1000)


def test_heads(tmp_path):
    head = dsnet.head(save(tmp_path / "a.pth.tar"))
    assert head.shape == (4, 66, 1, 1)
    assert torch.equal(head, stored()[HEAD])
    path = tmp_path / "b.pth.tar"
    torch.save({n: t for n, t in stored().items() if n != HEAD}, path)
    with pytest.raises(
        CheckpointError, match=r"holds no slimming head \('blocks\.3\.first_block\.gate\.gate\.0"
    ):
        dsnet.head(path)
    for shape in ((4, 40, 1, 1), (1, 66, 1, 1), (4, 66)):
        torch.save(stored() | {HEAD: torch.zeros(shape)}, path)
        with pytest.raises(
            CheckpointError, match=r"the slimming head .* is \[.*\], expected \[choices, 66, 1, 1\]"
        ):
            dsnet.head(path)


def test_damaged_and_foreign_files(tmp_path):
    path = save(tmp_path / "a.pth.tar")
    (tmp_path / "cut.pth.tar").write_bytes(path.read_bytes()[:5000])
    for found, message in ((tmp_path / "cut.pth.tar", "cannot be read"), (tmp_path / "none", "no such file")):
        with pytest.raises(CheckpointError, match=message):
            load(found)
    for source_error, options in (
        ("unknown model of dsnet 'ds_resnet'", {"model": "ds_resnet"}),
        ("source 'dsnet' takes no model_options", {"model": "ds_mbnet", "model_options": {"num_classes": 7}}),
    ):
        with pytest.raises(CheckpointError, match=source_error):
            aw.interop.load(path, source="dsnet", **options)
    with pytest.raises(CheckpointError, match="unknown model of dsnet 'ds_resnet'"):
        dsnet.new("ds_resnet")
    for widths, message in (
        ([1.5], "outside"),
        ("0.5", "give a list of multipliers"),
        ({"a": [8] * 5}, "each of the 6"),
    ):
        with pytest.raises(WidthError, match=message):
            load(path, widths=widths)


P = "blocks.4.residual_blocks.0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(f"{P}.conv_pw.weight"), rf"1 missing \({P}\.conv_pw\.weight\)"),
        (lambda s: s.pop("bn1.aux_bn.0.running_var"), r"1 missing \(bn1\.aux_bn\.0\.running_var\)"),
        (lambda s: s.update({"extra": torch.ones(1)}), r"1 unexpected \(extra\)"),
        (
            lambda s: s.update({f"{P}.bn2.aux_bn.3.running_mean": torch.ones(9)}),
            rf"{P}\.bn2\.aux_bn\.3\.running_mean is \[9\] in the file, \[832\] here",
        ),
        (lambda s: s.update({"bn1.aux_bn.0.weight": torch.ones(16)}), r"unexpected \(bn1\.aux_bn\.0\.weight\)"),
        (lambda s: s.pop("classifier.weight"), r"'classifier\.weight' is missing"),
        (
            lambda s: [s.pop(n) for n in list(s) if ".aux_bn.13." in n],
            r"holds batch norms of 13 widths \('blocks\.4\.first_block\.bn2\.aux_bn\.0', \.\.\.\), expected the 14",
        ),
        (
            lambda s: s.update({"blocks.4.first_block.bn2.aux_bn.14.running_mean": torch.ones(1184)}),
            "holds batch norms of 15 widths",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(change, message, tmp_path):
    state = dict(stored())
    change(state)
    with pytest.raises(CheckpointError, match=message):
        load(save(tmp_path / "a.pth.tar", state))


def test_tables_of_the_oracle():
    assert [list(table) for table in aw.models.ds_mbnet.CANDIDATES] == list(TABLES)


def test_a_published_gate_routes(tmp_path):
    path, x = save(tmp_path / "a.pth.tar"), torch.randn(6, 3, 32, 32, dtype=torch.float64)
    net = load(path).double().eval()
    head = dsnet.head(path)
    routes = Routes(net, [Cut(at=dsnet.GATED, feature=f"{dsnet.GATED}.squeeze")], range(len(head)))
    gate = gate_of(head).double()
    seen: list[torch.Tensor] = []
    first = net.extract(0)
    first.stages[3][0].depthwise.attention.squeeze.register_forward_hook(lambda m, a, out: seen.append(out))
    with torch.no_grad():
        first(x)
        logits = torch.einsum("kc,ncij->nk", head.double()[:, :, 0, 0], seen[0])
        torch.testing.assert_close(gate(seen[0]), logits, rtol=1e-10, atol=1e-10)
        gate.bias -= logits.mean(0)  # so that several labels are taken
        found = DynamicNet(routes, [gate]).routed(x)
    assert torch.equal(found.routes[:, 0], (logits - logits.mean(0)).argmax(1))
    for row, label in enumerate(found.routes[:, 0].tolist()):
        torch.testing.assert_close(found.output[row], net.at(label)(x)[row], rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match=r"a head of \[4, 66, 3, 3\]"):
        gate_of(torch.zeros(4, 66, 3, 3))
