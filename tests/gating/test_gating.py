import copy
import json
import math

import pytest
import torch
import torchvision
from torch.nn import functional as F

from anywidth.elastic import Elastic
from anywidth.errors import AnywidthError, CheckpointError, TraceError, WidthError
from anywidth.gating import (
    Cut,
    DynamicNet,
    GateConfig,
    Routes,
    answers,
    bias_for,
    chosen,
    costs_of,
    gate_loss,
    meet_,
    new_gates,
    read_gates,
    set_bias_,
    train_gates,
    walk,
    write_gates,
)
from anywidth.gating.losses import wanted
from anywidth.gating.masked import Masked, straight_through
from anywidth.gating.onnx import export_onnx, export_parts
from anywidth.graph.partition import run, split


def gates_of(case, scale=3.0):
    torch.manual_seed(1)
    gates = new_gates(case.routes.features(case.images[:1]), case.routes.choices).double()
    for gate in gates:
        gate.weight.data = scale * torch.randn_like(gate.weight)
    set_even_(case, gates)
    return gates


def set_even_(case, gates):
    """Biases with which the four routes are taken by about as many inputs."""
    with torch.no_grad():
        nodes, _ = walk(case.routes, gates, case.images)
        for gate, logits in zip(gates, [nodes[0].logits], strict=True):
            gate.bias -= logits.mean(0)


def test_a_network_in_parts_computes_the_same(case):
    module = case.net.extract(2).eval()
    parts = split(module, [Cut(at="stages.1.0.pointwise"), case.routes.gates[0]])
    assert len(parts) == 3
    assert torch.equal(run(parts, case.images), module(case.images))
    names = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    assert set().union(*(p.tensors for p in parts)) == names
    assert not parts[0].tensors & parts[2].tensors


def test_every_row_of_a_gated_batch_is_the_static_network_of_its_route(case):
    dynamic = DynamicNet(case.routes, list(gates_of(case)))
    found = dynamic.routed(case.images)
    assert found.routes.unique().numel() >= 3
    for i, route in enumerate(found.routes.flatten().tolist()):
        static = case.net.extract(route).eval()(case.images[i : i + 1])[0]
        torch.testing.assert_close(found.output[i], static, rtol=1e-10, atol=1e-10)
        alone = dynamic.routed(case.images[i : i + 1])
        assert alone.routes.item() == route
        torch.testing.assert_close(alone.output[0], found.output[i], rtol=1e-10, atol=1e-10)
    again = dynamic.routed(case.images)
    assert torch.equal(again.routes, found.routes)
    assert torch.equal(again.output, found.output)
    backwards = dynamic.routed(case.images.flip(0))
    assert torch.equal(backwards.routes.flip(0), found.routes)
    with pytest.raises(ValueError, match="the batch is empty"):
        dynamic(case.images[:0])


def test_masked_sliced_and_extracted_agree(case):
    masked = Masked(case.routes)
    _, *values = masked.first(case.images)
    routes = torch.arange(24) % 4
    mixed = masked(values, F.one_hot(routes, 4).double())
    for k in range(4):
        own = F.one_hot(torch.full((24,), k), 4).double()
        static = case.net.extract(k).eval()(case.images)
        torch.testing.assert_close(masked(values, own), static, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(case.net.at(k)(case.images), static, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(mixed[routes == k], static[routes == k], rtol=1e-10, atol=1e-10)


def test_the_expected_loss_is_that_of_an_oracle(case):
    """Four routes by hand, in float64; easy inputs are those that the narrowest gets right."""
    config = GateConfig(
        target=0.8 * case.routes.macs((3,)), cost=0.7, sparsify=0.3, smoothing=0.1, entropy=0.2
    )
    gates = gates_of(case)
    loss, macs = gate_loss(case.routes, list(gates), case.images, case.labels, config)
    loss.backward()
    outputs = [case.net.extract(k).eval()(case.images).detach() for k in range(4)]
    trunk = split(case.net.extract(0).eval(), case.routes.gates)[0].module
    feature = trunk(case.images)[0].detach().flatten(1)
    weight = gates[0].weight.detach().clone().requires_grad_()
    logits = feature @ weight.T + gates[0].bias
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    answer = sum(
        p[:, k] * -(o - o.logsumexp(1, keepdim=True))[range(24), case.labels] for k, o in enumerate(outputs)
    ).mean()
    target = torch.where(outputs[0].argmax(1) == case.labels, 0, 3)
    logp = p.log()
    guided = -(0.9 * logp[range(24), target] + 0.1 * logp.mean(1)).mean()
    costs = torch.tensor(
        [float(case.routes.macs((k,)) + weight.numel()) for k in range(4)], dtype=torch.float64
    )
    spent = (p @ costs).mean()
    entropy = -(p * logp).sum(1).mean()
    oracle = answer + 0.3 * guided + 0.7 * (spent / config.target - 1) ** 2 - 0.2 * entropy
    oracle.backward()
    assert loss.item() == pytest.approx(oracle.item(), rel=1e-12)
    assert macs == pytest.approx(spent.item(), rel=1e-12)
    torch.testing.assert_close(gates[0].weight.grad, weight.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("double", [False, True])
def test_a_published_step_is_that_of_an_oracle(case, double):
    """The gradient through masks, by finite differences of the masks' continuous values at the drawn choice."""
    config = GateConfig(method="gumbel", cost=0.5, double_softmax=double)
    gates = gates_of(case)
    loss, _ = gate_loss(
        case.routes, list(gates), case.images, case.labels, config, noise=torch.Generator().manual_seed(3)
    )
    loss.backward()
    trunk = split(case.net.extract(0).eval(), case.routes.gates)[0].module
    feature, *values = (v.detach() for v in trunk(case.images))
    weight = gates[0].weight.detach().clone().requires_grad_()
    logits = feature.flatten(1) @ weight.T + gates[0].bias
    noise = torch.empty_like(logits).exponential_(generator=torch.Generator().manual_seed(3))
    soft = (logits - noise.log()).softmax(1)
    hard = F.one_hot(soft.argmax(1), 4).double()
    masked = Masked(case.routes)

    def answer(choice):
        out = masked(values, choice)
        logp = out.log_softmax(1)
        return -(0.9 * logp[range(24), case.labels] + 0.1 * logp.mean(1)).mean()

    slopes = torch.zeros_like(hard)
    for i in range(0, 24, 7):
        for k in range(4):
            step = torch.zeros_like(hard)
            step[i, k] = 1e-7
            slopes[i, k] = (answer(hard + step) - answer(hard - step)).detach() / 2e-7
    rows = list(range(0, 24, 7))
    through = hard.clone().requires_grad_()
    answer(through).backward()
    torch.testing.assert_close(through.grad[rows], slopes[rows], rtol=1e-4, atol=1e-6)
    easy = case.net.extract(0).eval()(case.images).argmax(1) == case.labels
    target = torch.where(easy, 0, 3)
    shown = soft.log_softmax(1) if double else soft.log()
    guided = -(0.9 * shown[range(24), target] + 0.1 * shown.mean(1)).mean()
    costs = torch.tensor(
        [float(case.routes.macs((k,)) + weight.numel()) for k in range(4)], dtype=torch.float64
    )
    drawn = hard - soft.detach() + soft
    oracle = answer(drawn) + guided + 0.5 * ((drawn @ costs).mean() / 1e9) ** 2
    oracle.backward()
    assert loss.item() == pytest.approx(oracle.item(), rel=1e-10)
    torch.testing.assert_close(gates[0].weight.grad, weight.grad, rtol=1e-8, atol=1e-12)


def test_straight_through_draws_from_the_softmax():
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(20_000, 3)
    _, hard = straight_through(logits, noise=torch.Generator().manual_seed(0))
    torch.testing.assert_close(hard.mean(0), logits[0].softmax(0), rtol=0.05, atol=0.01)


def test_costs_of_routes_are_those_of_static_networks(case):
    costs = costs_of(case.routes, 100, "slimmable")
    assert costs.routes.tolist() == [case.net.macs(k, convention="slimmable") + 100 for k in range(4)]
    assert costs.shares[0][[0, -1]].tolist() == [0, 1]


def test_a_target_is_met_by_a_bias(case):
    gates = gates_of(case)
    loader = [(case.images[:10], case.labels[:10]), (case.images[10:], case.labels[10:])]
    low, high = costs_of(case.routes, gates[0].macs).reachable
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        target = low + share * (high - low)
        meet_(case.routes, list(gates), loader, target)
        routes = DynamicNet(case.routes, list(gates)).routed(case.images).routes
        mean = float(costs_of(case.routes, gates[0].macs).of(routes).mean())
        assert abs(mean - target) <= (high - low) / 24 + 1
    with pytest.raises(WidthError, match=r"out of reach: these widths cost \d+ to \d+"):
        meet_(case.routes, list(gates), loader, 0.9 * low)


def test_answers_do_not_see_the_bias(case):
    gates = gates_of(case)
    set_bias_(list(gates), costs_of(case.routes), 5.0)
    nodes, right = answers(case.routes, list(gates), [(case.images, case.labels)])
    assert (gates[0].bias[1:] < 0).all()
    set_bias_(list(gates), costs_of(case.routes), 0.0)
    again, _ = walk(case.routes, list(gates), case.images)
    torch.testing.assert_close(nodes[0].logits, again[0].logits.detach())
    for k in range(4):
        static = case.net.extract(k).eval()(case.images).argmax(1) == case.labels
        assert torch.equal(right[:, k], static)


def test_training_a_gate_separates_easy_from_hard(case):
    """Labels are what the narrowest says for half of the inputs, and what the widest says for the others."""
    narrow, wide = (case.net.extract(k).eval()(case.images).argmax(1) for k in (0, 3))
    differ = (narrow != wide).nonzero().flatten()
    assert len(differ) >= 4
    labels = narrow.clone()
    labels[differ[::2]] = wide[differ[::2]]
    loader = [(case.images, labels)]
    before = {k: v.clone() for k, v in case.net.state_dict().items()}
    seen = []
    config = GateConfig(epochs=150, lr=0.5, entropy=0.01)
    net = train_gates(case.routes, lambda epoch: loader, config, report=seen.append)
    routes = net.routed(case.images).routes.flatten()
    right = (net(case.images).argmax(1) == labels).double().mean()
    assert right > max((narrow == labels).double().mean(), (wide == labels).double().mean())
    assert seen[-1].loss < seen[0].loss
    assert seen[-1].step == seen[-1].steps == 150
    assert routes.unique().numel() > 1
    for name, tensor in case.net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    again = train_gates(case.routes, lambda epoch: loader, config)
    assert torch.equal(again.gates[0].weight, net.gates[0].weight)


def test_the_target_of_a_training_is_met_on_held_out_images(case):
    target = 0.5 * (case.routes.macs((0,)) + case.routes.macs((3,)))
    loader = [(case.images, case.labels)]
    for method in ("expected", "gumbel"):
        config = GateConfig(epochs=2, target=target, method=method)
        net = train_gates(case.routes, lambda epoch: loader, config, held_out=loader)
        mean = float(costs_of(case.routes, net.gates[0].macs).of(net.routed(case.images).routes).mean())
        assert mean == pytest.approx(target, rel=0.03)
    with pytest.raises(ValueError, match="give held_out"):
        train_gates(case.routes, lambda epoch: loader, GateConfig(target=target))
    with pytest.raises(WidthError, match="out of reach"):
        train_gates(case.routes, lambda epoch: loader, GateConfig(target=10.0), held_out=loader)


def test_a_target_is_met_where_a_gate_has_its_cheapest_choice_last():
    torch.manual_seed(0)
    net = Elastic(torchvision.models.resnet18(num_classes=5).double(), torch.zeros(1, 3, 32, 32).double())
    widths = [net.space.width({"layer3*": a, "layer4*": b}) for a, b in ((0.25, 1.0), (1.0, 0.25))]
    cuts, images = [Cut(at="layer2"), Cut(at="layer3")], torch.randn(40, 3, 32, 32).double()
    routes = Routes(net, cuts, widths)
    net.calibrate([images], widths=[routes.width(r) for r in routes.all()], batches=1)
    costs, loader = costs_of(routes), [(images, torch.randint(0, 5, (40,)))]
    assert [share.tolist() for share in costs.shares] == [[0, 1], [1, 0]]
    low, high = costs.reachable
    for share in (0.2, 0.5, 0.8):
        target = low + share * (high - low)
        net_ = train_gates(routes, lambda e: loader, GateConfig(epochs=1, target=target), held_out=loader)
        spent = costs_of(routes, sum(g.macs for g in net_.gates)).of(net_.routed(images).routes).mean()  # pyright: ignore[reportArgumentType, reportCallIssue]
        assert float(spent) == pytest.approx(target, rel=0.03)


def test_masks_that_do_not_fit_are_refused():
    """Batch norms after a concatenation have no prefix; a group convolution narrows each of its groups."""
    images, labels = torch.randn(4, 3, 32, 32), torch.zeros(4, dtype=torch.long)
    for model, cut, late in (
        (torchvision.models.densenet121(num_classes=5), "features.transition2", ("features.denseblock3*",)),
        (torchvision.models.resnext50_32x4d(num_classes=5), "layer3", ("layer4*",)),
    ):
        net = Elastic(model, torch.zeros(1, 3, 32, 32))
        widths = [net.space.width(dict.fromkeys(late, 0.5)), net.space.full]
        net.calibrate([images], widths=widths, batches=1)
        routes = Routes(net.eval(), [Cut(at=cut)], widths)
        with pytest.raises(WidthError, match="some layer mixes channels or does not keep the first ones"):
            train_gates(routes, lambda e: [(images, labels)], GateConfig(method="gumbel", epochs=1))


def test_a_loader_that_knows_its_length_is_not_read_to_count_it(case):
    class Loader(list):
        read = 0

        def __iter__(self):
            for item in super().__iter__():
                Loader.read += 1
                yield item

    loader = Loader([(case.images, case.labels)] * 3)
    train_gates(case.routes, lambda epoch: loader, GateConfig(epochs=2))
    assert Loader.read == 1 + 2 * 3  # the first batch says what features look like
    with pytest.raises(ValueError, match="the first batch, which has 1 image"):
        train_gates(case.routes, lambda epoch: [(case.images[:1], case.labels[:1])], GateConfig())


def test_a_loss_that_is_not_finite_is_one_of_our_errors(case):
    loader = [(torch.full_like(case.images, math.nan), case.labels)]
    with pytest.raises(FloatingPointError, match=r"the loss of step 1 is nan; lower gate.lr") as caught:
        train_gates(case.routes, lambda epoch: loader, GateConfig())
    assert isinstance(caught.value, AnywidthError)


def test_hard_inputs_go_where_they_are_sent(case):
    _, leaves = walk(case.routes, list(gates_of(case)), case.images)
    narrow = leaves[0].output.argmax(1) == case.labels
    wide = leaves[-1].output.argmax(1) == case.labels
    assert torch.equal(wanted(leaves, case.labels), ~narrow)
    assert torch.equal(wanted(leaves, case.labels, hard="narrowest"), ~narrow & wide)
    with pytest.raises(ValueError, match="expected widest or narrowest"):
        wanted(leaves, case.labels, hard="middle")


def test_gates_are_saved_and_read(case, tmp_path):
    gates = gates_of(case)
    write_gates(tmp_path / "gates.safetensors", case.routes, list(gates))
    state = torch.get_rng_state()
    routes, found = read_gates(tmp_path / "gates.safetensors", case.net)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(
        DynamicNet(routes, list(found)).routed(case.images).routes,
        DynamicNet(case.routes, list(gates)).routed(case.images).routes,
    )
    other = Elastic(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)), torch.zeros(1, 4))
    with pytest.raises(CheckpointError, match="do not fit this network"):
        read_gates(tmp_path / "gates.safetensors", other)
    with pytest.raises(CheckpointError, match="cannot be read as gates"):
        read_gates(tmp_path / "none.safetensors", case.net)
    beside = tmp_path / "gates.json"
    about = json.loads(beside.read_text())
    for labels in (None, ["0"]):
        beside.write_text(json.dumps(about | {"labels": labels}))
        with pytest.raises(CheckpointError, match="do not fit this network"):
            read_gates(tmp_path / "gates.safetensors", case.net)


@pytest.fixture(scope="module")
def two_gates():
    torch.manual_seed(0)
    net = Elastic(torchvision.models.resnet18(num_classes=5), torch.zeros(1, 3, 32, 32)).double()
    narrow = {"layer3*": 0.25, "layer4*": 0.5}
    widths = [net.space.width(narrow), net.space.width({"layer3*": 0.5, "layer4*": 0.75}), net.space.full]
    images = torch.randn(20, 3, 32, 32, dtype=torch.float64)
    cuts = [Cut(at="layer2"), Cut(at="layer3")]
    routes = Routes(net, cuts, widths)
    every = [routes.width(route) for route in routes.all()]
    net.calibrate([images], widths=every, batches=1)
    return net.eval(), Routes(net, cuts, widths), images


def test_several_gates_choose_each_for_its_stage(two_gates):
    net, routes, images = two_gates
    gates = new_gates(routes.features(images[:1]), 3).double()
    for gate in gates:
        gate.weight.data *= 20
    with torch.no_grad():
        nodes, _ = walk(routes, list(gates), images)
        assert [len(n.route) for n in nodes] == [0, 1, 1, 1]
        gates[0].bias -= nodes[0].logits.mean(0)
        gates[1].bias -= torch.cat([n.logits for n in nodes[1:]]).mean(0)
    found = DynamicNet(routes, list(gates)).routed(images)
    assert len({tuple(r) for r in found.routes.tolist()}) >= 4
    for i, route in enumerate(found.routes.tolist()):
        width = routes.width(tuple(route))
        assert width["layer3.0.conv1"] == routes.widths[route[0]]["layer3.0.conv1"]
        assert width["layer4.0.conv1"] == routes.widths[route[1]]["layer4.0.conv1"]
        static = net.extract(width).eval()(images[i : i + 1])[0]
        torch.testing.assert_close(found.output[i], static, rtol=1e-9, atol=1e-9)
    nodes, _ = walk(routes, list(gates), images)
    assert torch.equal(chosen(nodes), found.routes)
    costs = costs_of(routes)
    target = sum(costs.reachable) / 2
    mean = costs.of(chosen(nodes, [-bias_for(nodes, costs, target) * s for s in costs.shares])).mean()
    assert float(mean) == pytest.approx(target, rel=0.05)
    loss, _ = gate_loss(routes, list(gates), images, torch.randint(0, 5, (20,)), GateConfig(target=target))
    loss.backward()
    assert all(g.weight.grad.abs().sum() > 0 for g in gates)
    with pytest.raises(WidthError, match="masks what follows one gate"):
        gate_loss(routes, list(gates), images, torch.zeros(20, dtype=torch.long), GateConfig(method="gumbel"))


@pytest.mark.parametrize(
    ("cuts", "widths", "error", "message"),
    [
        (
            [Cut(at="layer9")],
            (0.5, 1.0),
            TraceError,
            "unknown module to cut at 'layer9'; did you mean 'layer",
        ),
        (
            [Cut(at="layer3"), Cut(at="layer2")],
            (0.5, 1.0),
            TraceError,
            "cuts go from the inputs to the output",
        ),
        ([Cut(at="layer2", feature="layer3")], (0.5, 1.0), TraceError, "a feature lies between"),
        (
            [Cut(at="layer2")],
            (0.5, 1.0),
            WidthError,
            "comes before the gate at 'layer2', so all inputs share it",
        ),
        ([Cut(at="layer2")], (1.0,), WidthError, "at least two widths"),
        ([], (0.5, 1.0), WidthError, "at least two widths at one place"),
        ([Cut(at="layer2")], (1.0, 0.5), WidthError, "the narrowest first"),
        ([Cut(at="avgpool")], ("a", "b"), WidthError, "comes before the gate"),
        (
            [Cut(at="layer2"), Cut(at="layer4")],
            ("a", "b"),
            WidthError,
            "the gate at 'layer4' chooses nothing",
        ),
    ],
)
def test_gates_that_cannot_be(cuts, widths, error, message):
    net = Elastic(torchvision.models.resnet18(num_classes=5), torch.zeros(1, 3, 32, 32))
    net.list_width_("a", net.space.width({"layer3*": 0.5}))
    net.list_width_("b", net.space.full)
    with pytest.raises(error) as caught:
        Routes(net, cuts, widths)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"method": "luck"}, {"epochs": 0}, {"lr": 0}, {"lr": math.inf}, {"hard": "x"}, {"temperature": 0}, {"target": -1.0}],
)  # fmt: skip
def test_settings_that_cannot_be(options):
    with pytest.raises(ValueError, match=f"gate.{next(iter(options))}"):
        GateConfig(**options)


@pytest.mark.parametrize("which", ["one", "two"])
def test_an_exported_network_routes_as_this_one(case, two_gates, tmp_path, which):
    """ONNX runs in onnxruntime one input at a time; the parts run as torch programs for any batch."""
    runtime = pytest.importorskip("onnxruntime")
    if which == "one":
        net, routes, images = case.net, case.routes, case.images[:10]
    else:
        net, routes, images = two_gates
        images = images[:10]
    net = copy.deepcopy(net).float().eval()
    routes = Routes(net, routes.gates, routes.widths)
    images = images.float()
    torch.manual_seed(2)
    gates = new_gates(routes.features(images[:1]), routes.choices)
    with torch.no_grad():
        nodes, _ = walk(routes, list(gates), images)
        for number, gate in enumerate(gates):
            gate.bias -= torch.cat([n.logits for n in nodes if len(n.route) == number]).mean(0)
    dynamic = DynamicNet(routes, list(gates))
    expected = dynamic.routed(images)
    assert expected.routes.unique().numel() > 1
    export_onnx(dynamic, images[:1], tmp_path / "gated.onnx")
    session = runtime.InferenceSession(str(tmp_path / "gated.onnx"), providers=["CPUExecutionProvider"])
    for i in range(len(images)):
        output, route = session.run(None, {"input": images[i : i + 1].numpy()})
        assert route.tolist() == expected.routes[i].tolist()
        torch.testing.assert_close(torch.from_numpy(output)[0], expected.output[i], rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="expected a batch of 1, got 2"):
        export_onnx(dynamic, images[:2], tmp_path / "no.onnx")
    export_parts(dynamic, images, tmp_path / "parts")
    trunk = torch.export.load(tmp_path / "parts" / "trunk.pt2").module()
    choice, *values = trunk(images)
    assert torch.equal(choice, expected.routes[:, 0])
    if which == "one":
        for k in choice.unique().tolist():
            branch = torch.export.load(tmp_path / "parts" / f"branch-{k}.pt2").module()
            mine = choice == k
            if mine.sum() > 1:
                torch.testing.assert_close(
                    branch(*(v[mine] for v in values)), expected.output[mine], rtol=1e-4, atol=1e-5
                )


def test_an_exported_network_has_the_type_of_its_input(case, tmp_path):
    """onnxruntime has no float64 convolutions: by the reference implementation."""
    reference = pytest.importorskip("onnx.reference")
    dynamic = DynamicNet(case.routes, list(gates_of(case)))
    export_onnx(dynamic, case.images[:1], tmp_path / "gated.onnx")
    session = reference.ReferenceEvaluator(str(tmp_path / "gated.onnx"))
    assert session.input_types[0].tensor_type.elem_type == 11  # DOUBLE
    assert session.output_types[0].tensor_type.elem_type == 11
    expected = dynamic.routed(case.images)
    for i in range(2):
        output, route = session.run(None, {"input": case.images[i : i + 1].numpy()})
        assert route.tolist() == expected.routes[i].tolist()
        torch.testing.assert_close(torch.from_numpy(output)[0], expected.output[i], rtol=1e-9, atol=1e-9)


def test_gates_of_other_routes_are_refused(case):
    gates = list(gates_of(case))
    for routes, given, message in (
        (case.routes, gates * 2, "have 1 gates with 4 choices; got 2 gates"),
        (
            Routes(case.net, case.routes.gates, [0, 1, 2]),
            gates,
            r"1 gates with 3 choices; got 1 gates with \[4\]",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            DynamicNet(routes, given)
