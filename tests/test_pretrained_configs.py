"""Extracted copies of Hugging Face models: their config says their sizes, and `from_pretrained` builds them again."""

from __future__ import annotations

import os
from fractions import Fraction

import pytest
import torch
import transformers

import anywidth as aw
import hugging_face
from anywidth.errors import WidthError
from anywidth.pretrained_configs import ConfigSizes
from anywidth.tracing.model_outputs import named_tensors
from anywidth.tracing.trace import call

ALWAYS = ["LlamaForCausalLM", "Phi3ForCausalLM", "GPT2LMHeadModel", "BloomForCausalLM", "BertForSequenceClassification", "ElectraForSequenceClassification", "MPNetForSequenceClassification", "T5ForConditionalGeneration", "ViTForImageClassification", "Dinov2ForImageClassification", "SwinForImageClassification", "CLIPModel", "Wav2Vec2ForCTC"]  # fmt: skip
CANNOT = {
    "FalconForCausalLM",  # angles of positions of narrower heads
    "Mamba2ForCausalLM",  # sizes that only change together
    "MarianMTModel",  # sinusoids of another size
    "BartForConditionalGeneration",
    "DINOv3ViTModel",
    "ViTModel",  # outputs that keep their size
    "SiglipModel",
    "DetrForObjectDetection",
    "VideoMAEForVideoClassification",
}
OFTEN = [n for n in hugging_face.MODELS if n not in CANNOT]
NAMES = OFTEN if os.environ.get("ANYWIDTH_FULL") else ALWAYS


def _outputs(model, example):
    torch.manual_seed(1)
    return dict(named_tensors(call(model.eval(), example)))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_view_and_copy_and_rebuilt_compute_the_same(name, tmp_path):
    model, example = hugging_face.small(name)
    before = model.config.to_dict()
    net = aw.Elastic(model, example).eval()
    small = net.extract(0.5)
    small.save_pretrained(tmp_path)
    rebuilt = type(model).from_pretrained(tmp_path)
    assert {n: p.shape for n, p in rebuilt.state_dict().items()} == {n: p.shape for n, p in small.state_dict().items()}  # fmt: skip
    expected = _outputs(small, example)
    for other in (rebuilt, net.at(0.5)):
        for output, t in _outputs(other, example).items():
            torch.testing.assert_close(t, expected[output], msg=lambda m, o=output: f"{o}: {m}")
    assert model.config.to_dict() == before


def test_sizes_are_told_by_the_class():
    model, example = hugging_face.small("LlamaForCausalLM")
    net = aw.Elastic(model, example)
    width = net.space.width({"*gate_proj": 30, "*o_proj": 24, "*q_proj": 0.5})
    config = net.extract(width).config
    assert (config.hidden_size, config.intermediate_size) == (24, 30)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 16)
    assert (config.vocab_size, config.num_hidden_layers) == (96, 2)


def test_heads_that_no_shape_shows():
    model, example = hugging_face.small("BertForSequenceClassification")
    small = aw.Elastic(model, example).extract(0.5)
    assert (small.config.hidden_size, small.config.num_attention_heads) == (32, 2)
    attention = small.bert.encoder.layer[0].attention.self
    assert (attention.num_attention_heads, attention.attention_head_size) == (2, 16)


def test_what_no_config_says_is_refused_with_the_tensor_s_name(tmp_path):
    model, example = hugging_face.small("LlamaForCausalLM")
    net = aw.Elastic(model, example)
    small = net.extract(net.space.width({"model.layers.0.mlp.gate_proj": 30}))
    with pytest.raises(
        WidthError,
        match=r"'model.layers.\d.mlp.gate_proj.weight' is \(\d\d, 64\), and LlamaForCausalLM builds it as",
    ):
        small.save_pretrained(tmp_path)
    with torch.no_grad():
        small(**example)  # it runs, and is saved in other ways
        torch.save(small.state_dict(), tmp_path / "weights.pt")


def test_values_that_a_rebuilt_model_would_compute_differently_are_refused(tmp_path):
    model, example = hugging_face.small("MarianMTModel")
    small = aw.Elastic(model, example).extract(0.5)
    with pytest.raises(
        WidthError, match=r"embed_positions.weight' is not saved, and MarianMTModel computes other values"
    ):
        small.save_pretrained(tmp_path)


def test_without_an_example(tmp_path):
    model, example = hugging_face.small("GPT2LMHeadModel")
    aw.Elastic(model, example).save(tmp_path / "net.safetensors")
    net = aw.load(tmp_path / "net.safetensors", hugging_face.small("GPT2LMHeadModel")[0])
    assert net.extract(0.5).config.n_head == 2


def test_effects_of_entries():
    model, _ = hugging_face.small("LlamaForCausalLM")
    sizes = ConfigSizes(model)
    effects = {e.entries: e for e in sizes.effects}
    mlp = effects[(("intermediate_size",),)].powers
    assert mlp["model.layers.0.mlp.up_proj.weight", 0] == 1
    assert "model.layers.0.mlp.up_proj.weight" not in {name for name, dim in mlp if dim == 1}
    assert list(sizes.candidates(model)) == [{}]
    assert all(isinstance(r, Fraction) for found in sizes._ratios(sizes.before) for r in found)


@torch.no_grad()
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel", "Gemma2ForCausalLM"])
def test_generation_is_that_of_the_copy(name):
    model, example = hugging_face.small(name)
    net = aw.Elastic(model, example).eval()
    view, small = net.at(0.5), net.extract(0.5).eval()
    ids = example["input_ids"]
    for options in ({}, {"use_cache": False}, {"cache_implementation": "static"}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}):  # fmt: skip
        a, b = (m.generate(ids, max_new_tokens=6, do_sample=False, **options) for m in (view, small))
        assert torch.equal(a, b), options
        assert a.shape[1] > ids.shape[1]


@torch.no_grad()
def test_generation_of_an_encoder_with_a_decoder():
    model, example = hugging_face.small("T5ForConditionalGeneration")
    net = aw.Elastic(model, example).eval()
    for options in ({}, {"num_beams": 2}):
        a, b = (
            m.generate(example["input_ids"], max_new_tokens=5, do_sample=False, **options)
            for m in (net.at(0.5), net.extract(0.5).eval())
        )
        assert torch.equal(a, b)


def test_a_model_with_an_attribute_config_is_not_taken_for_one_of_theirs():
    class Model(torch.nn.Linear):
        config = transformers.BertConfig()

    assert aw.Elastic(torch.nn.Sequential(Model(4, 8), Model(8, 2)), torch.randn(1, 4)).extract(0.5)
