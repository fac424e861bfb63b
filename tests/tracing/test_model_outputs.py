"""Which outputs may shrink, and that all others keep their size at every width."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import Tensor, nn

import anywidth as aw
from anywidth.errors import TraceError
from anywidth.tracing.model_outputs import free_names, named_tensors


class Both(nn.Module):
    """Scores, and the features that they are of."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> dict[str, object]:
        h = self.first(x).relu()
        return {"scores": self.last(h), "features": [h, h.softmax(-1)]}


X = torch.randn(2, 4)


def test_names_are_the_way_to_a_tensor():
    a, b, c = torch.zeros(1), torch.zeros(2), torch.zeros(3)

    class Holder:
        def __init__(self):
            self.inside, self.itself = {"k": c}, self

    names = dict(named_tensors((a, {"x": [b]}, Holder())))
    assert {n: t.numel() for n, t in names.items()} == {"0": 1, "1.x.0": 2, "2.inside.k": 3}
    assert dict(named_tensors(a)) == {"": a}


def test_outputs_keep_their_size_and_say_so():
    net = aw.Elastic(Both().eval(), X)
    assert not net.space.groups
    reasons = {(f.tensor, f.axis): f.reason for f in net.space.frozen}
    assert reasons["first.weight", 0] == "output of the model (features.0)"
    assert reasons["last.weight", 0] == "output of the model (scores)"


@pytest.mark.parametrize(
    "free",
    [["features"], "features", ["feat*"], ["features.0", "features.1"], lambda name, t: "features" in name],
)
@torch.no_grad()
def test_free_outputs_shrink_and_the_others_do_not(free):
    net = aw.Elastic(Both().eval(), X, free_outputs=free)
    assert net.space.free_outputs == ("features.0", "features.1")
    out = net.at(0.5)(X)
    assert out["scores"].shape == (2, 3)
    assert [t.shape for t in out["features"]] == [(2, 8), (2, 8)]
    narrow = Both().eval()
    narrow.first, narrow.last = nn.Linear(4, 8), nn.Linear(8, 3)
    state = net.model.state_dict()
    narrow.load_state_dict({"first.weight": state["first.weight"][:8], "first.bias": state["first.bias"][:8], "last.weight": state["last.weight"][:, :8], "last.bias": state["last.bias"]})  # fmt: skip
    torch.testing.assert_close(out["scores"], narrow(X)["scores"])


def test_one_free_output_does_not_free_the_other():
    net = aw.Elastic(Both().eval(), X, free_outputs=["features.1"])
    assert not net.space.groups  # features.0 has the same channels


def test_an_output_that_is_not_there_is_named():
    with pytest.raises(TraceError, match=r"unknown output 'feature'.*features.0.*free_outputs takes names"):
        aw.Elastic(Both().eval(), X, free_outputs=["feature"])


def test_free_outputs_are_saved_with_the_space(tmp_path):
    net = aw.Elastic(Both().eval(), X, free_outputs=["features"])
    net.save(tmp_path / "net.safetensors")
    loaded = aw.load(tmp_path / "net.safetensors", Both())
    assert loaded.space == net.space
    assert loaded.space.free_outputs


class OutputInTraining(Both):
    """An auxiliary output that comes in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(16, 3)

    def forward(self, x):
        out = super().forward(x)
        if self.training:
            del out["features"]
            out["aux"] = self.aux(self.first(x))
        return out


def test_a_free_output_may_be_missing_in_training():
    net = aw.Elastic(OutputInTraining().eval(), X, free_outputs=["features"])
    assert len(net.space.groups) == 1
    assert net.at(0.5).train()(X)["aux"].shape == (2, 3)


def _llama(**options):
    config = transformers.LlamaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48, max_position_embeddings=32, **options)  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


IDS = torch.randint(50, (1, 6))


@torch.no_grad()
def test_caches_and_hidden_states_of_hugging_face_models_are_free():
    with_cache = aw.Elastic(_llama(), {"input_ids": IDS})
    without = aw.Elastic(_llama(), {"input_ids": IDS, "use_cache": False})
    assert with_cache.space.names == without.space.names
    assert with_cache.params(0.5) == without.params(0.5)
    shown = aw.Elastic(_llama(), {"input_ids": IDS, "output_hidden_states": True, "output_attentions": True})
    assert {n.split(".")[0] for n in shown.space.free_outputs} >= {"hidden_states"}
    assert shown.params(0.5) == without.params(0.5)
    assert shown.at(0.5)(IDS, output_hidden_states=True).hidden_states[1].shape == (1, 6, 16)


@torch.no_grad()
def test_what_a_bare_model_is_for_is_not_free():
    config = transformers.BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48)  # fmt: skip
    net = aw.Elastic(transformers.BertModel(config).eval(), IDS)
    assert net.at(0.5)(IDS).last_hidden_state.shape == (1, 6, 32)
    net = aw.Elastic(
        transformers.BertModel(config).eval(), IDS, free_outputs=["last_hidden_state", "pooler_output"]
    )
    assert net.at(0.5)(IDS).last_hidden_state.shape == (1, 6, 16)


def test_a_dict_of_the_user_s_own_is_no_hugging_face_output():
    assert free_names({"logits": X, "hidden_states": X}) == set()
