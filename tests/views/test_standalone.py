import copy
import io
import pickle

import torch
from torch import nn
from torch.testing import assert_close

from anywidth import Elastic
from anywidth.views import is_view
from live_views import Packed, X, packed
from narrow_views import IMAGE, KINDS, NARROW, assert_is_compact, compact, elastic, width
from oracles import TIGHT, rand, scalar
from random_nets import RandomNet


def copies(view: nn.Module) -> dict[str, nn.Module]:
    file = io.BytesIO()
    torch.save(view, file)
    file.seek(0)
    return {
        "deepcopy": copy.deepcopy(view),
        "pickle": pickle.loads(pickle.dumps(view)),
        "torch.save": torch.load(file, weights_only=False),
    }


def test_copies_of_a_view_stand_alone():
    net = elastic()
    view = net.at(width(net))
    for name, made in copies(view).items():
        assert type(made) is RandomNet, name
        assert not any(map(is_view, made.modules())), name
        assert not set(vars(made)) - set(vars(RandomNet(KINDS, NARROW))), name
        assert_is_compact(net, made)
        scalar(made(rand(*IMAGE))).backward()
        assert all(p.grad is not None for p in made.parameters()), name
        assert all(p.grad is None for p in net.parameters()), name
        with torch.no_grad():
            for p in made.parameters():
                p.zero_()
        assert_is_compact(net, view)
        assert not next(iter(made.children())).weight.any()
        again = copy.deepcopy(made)
        assert_close(again(rand(*IMAGE)), made(rand(*IMAGE)))


def test_a_copy_is_made_from_weights_as_they_are():
    net = elastic()
    view = net.at(width(net))
    view(rand(*IMAGE))
    with torch.no_grad():
        for p in net.model.parameters():
            p.mul_(1.5)
    for made in copies(view).values():
        assert_is_compact(net, made)


def test_a_copy_of_a_packed_view(ready):
    view = ready.at("small")
    with torch.no_grad():
        view(rand(*IMAGE))
        for p in ready.model.parameters():
            p.mul_(1.5)
        for name, made in copies(view).items():
            for n, p in made.named_parameters():
                assert torch.equal(p, compact(ready).get_parameter(n)), (name, n)


def big() -> Elastic:
    return Elastic(
        nn.Sequential(nn.Linear(4, 1024), nn.Linear(1024, 1024), nn.Linear(1024, 4)), torch.randn(1, 4)
    )


def test_saved_views_are_small():
    net = big()
    view = net.at(net.space.width({"0": 8, "1": 8}))
    for value in (view, view.state_dict(), net.extract(net.space.width({"0": 8, "1": 8}))):
        file = io.BytesIO()
        torch.save(value, file)
        assert file.tell() < 20_000
    assert len(pickle.dumps(view)) < 20_000


def test_copies_do_not_mention_this_package():
    net = elastic()
    for blob in (pickle.dumps(net.at(width(net))), pickle.dumps(net.extract(width(net)))):
        assert b"anywidth" not in blob


def test_extract_owns_its_tensors():
    net = elastic()
    for w in (width(net), 1.0):
        small = net.extract(w)
        wide = {t.untyped_storage().data_ptr() for t in net.state_dict(keep_vars=True).values()}
        assert not wide & {t.untyped_storage().data_ptr() for t in small.state_dict(keep_vars=True).values()}
        assert all(
            p.is_contiguous() and p.untyped_storage().nbytes() == p.numel() * 8 for p in small.parameters()
        )


def test_parameter_classes_survive_in_copies():
    class Special(nn.Parameter):
        pass

    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].weight = Special(model[0].weight.data)
    assert type(Elastic(model, torch.randn(1, 3)).extract(0.5)[0].weight) is Special


def test_parts_of_a_view_are_copied_alone():
    net = packed()
    part = net.at(0.5).qkv
    for made in (copy.deepcopy(part), pickle.loads(pickle.dumps(part)), copy.copy(part)):
        assert type(made) is nn.Linear
        assert not is_view(made)
        assert made.out_features == 12
        assert_close(made(X), part(X), **TIGHT)
    holder = copy.deepcopy(nn.ModuleDict({"view": net.at(0.5), "wide": nn.Linear(2, 2)}))
    assert type(holder["view"]) is Packed
    assert holder["view"].qkv.weight.is_leaf
