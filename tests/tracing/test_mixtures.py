"""Mixtures of experts of transformers, in each of the ways in which it runs them."""

import pytest
import torch
import transformers
from torch import nn
from torch.testing import assert_close

import anywidth as aw
from oracles import fill_

SIZES = {
    "vocab_size": 40,
    "num_hidden_layers": 2,
    "max_position_embeddings": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_experts_per_tok": 2,
}
WAYS = {"eager": torch.double, "batched_mm": torch.double, "grouped_mm": torch.float32}
IDS = {"input_ids": torch.arange(24).reshape(2, 12) % 40, "use_cache": False}


def language_model(name: str, **sizes) -> nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **sizes})
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            nn.init.normal_(p, 0.02, 0.3)
    return model


MODELS = {
    "Mixtral": {"num_local_experts": 4},
    "Qwen2Moe": {"num_experts": 6, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 48},
    "Qwen3Moe": {"num_experts": 6, "moe_intermediate_size": 48},
    "GptOss": {"num_local_experts": 4, "sliding_window": 8},
    "DeepseekV3": {
        "head_dim": 8,
        "n_routed_experts": 8,
        "moe_intermediate_size": 48,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 16,
        "q_lora_rank": 24,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        "num_key_value_heads": 4,
    },
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_mixtures_narrow_and_reorder(name, way):
    model = language_model(name, **MODELS[name]).to(WAYS[way])
    model.set_experts_implementation(way)
    net = aw.Elastic(model, IDS)
    assert net.space.unknown == ()
    assert net.params(0.5) < 0.3 * net.params(1.0)
    for width in (net.space.uniform(0.5), net.space.sample(torch.Generator().manual_seed(0))):
        assert_close(net.at(width)(**IDS).logits, net.extract(width)(**IDS).logits)
    expected = model(**IDS).logits
    generator = torch.Generator().manual_seed(1)
    orders = {
        g.name: torch.randperm(g.size, generator=generator).tolist() for g in net.space.groups if g.permutable
    }
    aw.reorder_(net, orders)
    assert_close(model(**IDS).logits, expected, rtol=1e-3, atol=1e-3)  # rotations are in float32 throughout


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_half_a_mixture_is_one_built_with_half_the_sizes(way):
    model = language_model("Mixtral", **MODELS["Mixtral"]).to(WAYS[way])
    half = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1}
    compact = language_model("Mixtral", **{**MODELS["Mixtral"], **half}).to(WAYS[way])
    # Rows of the joint weight: 96 gates, then 96 values.
    rows = [*range(48), *range(96, 144)]
    where = {f"model.layers.{i}.mlp.experts.gate_up_proj": {1: rows} for i in range(2)}
    fill_(compact, model, where)
    for m in (model, compact):
        m.set_experts_implementation(way)
    net = aw.Elastic(model, IDS)
    assert_close(net.at(0.5)(**IDS).logits, compact(**IDS).logits)
    assert_close(net.extract(0.5)(**IDS).logits, compact(**IDS).logits)


@torch.no_grad()
def test_the_grouped_product_of_transformers_itself(monkeypatch):
    """Where torch has no kernel, as for double precision."""
    monkeypatch.setattr(transformers.integrations.moe, "_can_use_grouped_mm", lambda *_: False)
    model = language_model("Mixtral", **MODELS["Mixtral"]).double()
    model.set_experts_implementation("grouped_mm")
    net = aw.Elastic(model, IDS)
    assert net.space.unknown == ()
    assert net.params(0.5) < 0.3 * net.params(1.0)
    grouped = net.at(0.5)(**IDS).logits
    model.set_experts_implementation("eager")
    assert_close(aw.Elastic(model, IDS).at(0.5)(**IDS).logits, grouped)
