"""What a user wrote beside the recipe is named on the command line and in recipes as ours is."""

import json
import sys

import pytest
from safetensors.torch import load_file

from anywidth.errors import RecipeError
from anywidth.workflows.naming import key_values
from coco_images import make_coco

OWN = '''
import numpy as np
from anywidth.prune import Criterion, criterion_of_sources
from anywidth.search import Trial, front_of_trials
from anywidth.train.policies import width_policy
from anywidth.train.policies.joslim import Joslim

steepest = criterion_of_sources(lambda source: (source.rows * source.gradient).sum(1).abs().numpy(), needs_gradients=True)


def _loudest(net, batches, seed):
    assert len(list(batches)) == 3
    return [(axis, np.arange(sum(r.positions for r in axis), dtype=float)) for axis in _axes(net)]


def _axes(net):
    return [net.space.axes["conv.weight"][0]]


loudest = Criterion(judge=_loudest, needs_batches=True)


class Ladder:
    def __init__(self, net, *, kind, steps=2, most=1.0):
        self.net, self.kind, self.steps, self.most, self.trials = net, kind, steps, most, []

    def identity(self):
        return {"searcher": "ladder", "steps": self.steps, "most": self.most}

    def ask(self, costs):
        return [] if self.trials else [self.net.space.uniform(self.most * (i + 1) / self.steps) for i in range(self.steps)]

    def tell(self, widths, costs, errors):
        self.trials += [Trial(width=w, cost=c, error=e) for w, c, e in zip(widths, costs, errors, strict=True)]

    def front(self):
        return front_of_trials(self.net, self.trials, self.kind, None, self.identity())


def nothing(module, inputs, path):
    pass


from anywidth.export import ExportTarget
clash = ExportTarget(write=nothing, suffix=".safetensors")
description = ExportTarget(write=nothing, suffix=".json")


def plain(logits, labels, context):
    return (logits.logsumexp(-1) - logits.gather(-1, labels[:, None])[:, 0]).mean()


def shapes(module, inputs, path):
    path.write_text(" ".join(str(tuple(p.shape)) for p in module.parameters()))


class Slow(Joslim):
    """Joslim that says every width once more."""

    def __init__(self, proposer, measure, *, tau, low, times=1):
        super().__init__(proposer, measure, tau=tau, low=low)
        self.times = times

    def __call__(self, generator, progress=0.0):
        widest, *inner, narrowest = super().__call__(generator, progress)
        return (widest, *(inner * self.times), narrowest)


slow = width_policy(searches=True)(Slow)
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with own code, where commands run."""
    (tmp_path / "own_code.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    yield tmp_path
    sys.modules.pop("own_code", None)


@pytest.mark.parametrize(("criterion", "needs"), [("steepest", "gradients"), ("loudest", "batches")])
def test_an_own_criterion_gets_what_it_declares(own, trained, run_command, criterion, needs):
    command = ("prune", trained, "--ratio", 0.3, "--criterion", f"own_code:{criterion}", "--batches", 3)
    code, _, err = run_command(*command, "--out", own / "pruned")
    assert code == 0, err
    settings = json.loads((own / "pruned" / "pruned.json").read_text())["settings"]
    assert settings["criterion"] == f"own_code:{criterion}"


def test_an_own_searcher_is_run_and_its_front_written(own, recipe, run_command):
    run = own / "run"
    assert run_command("train", recipe, "data.held_out=200", "--run", run).code == 0
    command = ("search", run, "--method", "own_code:Ladder", "--images", 100)
    code, _, err = run_command(*command, "--option", "steps=3", "--option", "most=0.9")
    assert code == 0, err
    front = json.loads((run / "front.json").read_text())
    assert front["about"]["steps"] == 3
    assert 1 <= len(front["members"]) <= 3
    assert run_command(*command, "--budget", "macs=50%").err.count("takes no --budget") == 1
    assert "--within is for bayes" in run_command(*command, "--within", "params=2M").err
    assert "--evals is for bayes" in run_command(*command, "--evals", 9).err
    assert "unknown option of the method of search" in run_command(*command, "--option", "stepz=3").err


def test_an_own_export_target_is_written_beside_ours(own, trained, run_command):
    code, _, err = run_command(
        "export", trained, "--width", 0.5, "--target", "own_code:shapes", "--out", own / "half"
    )
    assert code == 0, err
    assert {p.name for p in (own / "half").iterdir()} == {
        "model.safetensors", "model.pt2", "model.shapes", "model.json",
    }  # fmt: skip
    shapes = [tuple(t.shape) for t in load_file(own / "half" / "model.safetensors").values()]
    written = (own / "half" / "model.shapes").read_text()
    assert all(str(shape) in written for shape in shapes if shape)


def test_an_unknown_target_is_refused_before_anything_is_written(own, trained, run_command):
    code, _, err = run_command("export", trained, "--width", 0.5, "--target", "onxx", "--out", own / "half")
    assert code == 2
    assert "unknown export target 'onxx'; did you mean 'onnx'" in err
    assert not (own / "half").exists()


def test_an_own_policy_that_searches_gets_proposer_and_options(own, recipe, run_command):
    changes = [
        "widths.policy=own_code:slow", "widths.options={times: 2}", "widths.listed=[0.5, 1.0]", "widths.random=2",
        "data.held_out=100", "joslim={images: 50, batch_size: 50, prior_points: 2, tau: 20, num_sampled_arch: 1}",
    ]  # fmt: skip
    code, _, err = run_command("train", recipe, *changes, "train.epochs=2", "--run", own / "run")
    assert code == 0, err
    assert (own / "run" / "front.json").exists()


def test_options_are_values_of_yaml():
    assert key_values(["steps=4", "shape=[1, 2]", "name=wide"]) == {
        "steps": 4,
        "shape": [1, 2],
        "name": "wide",
    }
    for wrong in ("steps", "=4", "a=[1"):
        with pytest.raises(RecipeError, match="expected KEY=VALUE"):
            key_values([wrong])


def test_an_own_network_is_trained_and_profiled(recipe, run_command, tmp_path):
    own = ("model.name=user_code:Perceptron", "model.kwargs={hidden: 16}")
    code, _, err = run_command("train", recipe, *own, "train.epochs=1", "--run", tmp_path / "run")
    assert code == 0, err
    code, out, err = run_command(
        "profile", "user_code:Perceptron", "--shape", "1x8x8", "--widths", "0.5,1.0", "--json"
    )
    assert code == 0, err
    assert len(json.loads(out)["groups"]) == 1


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("clash", "writes model.safetensors, which is written already"),
        ("description", "writes model.json, which is written already"),
        ("nothing", "the export target of model.nothing wrote no such file"),
    ],
)
def test_an_own_target_takes_nobodys_place(own, trained, run_command, target, message):
    command = ("export", trained, "--width", 0.5, "--target", f"own_code:{target}", "--out", own / "half")
    code, _, err = run_command(*command)
    assert code == 2
    assert message in err
    assert not (own / "half" / "model.safetensors").exists()


def test_a_plain_loss_is_a_target(own, recipe, run_command):
    code, _, err = run_command(
        "train", recipe, "train.target=own_code:plain", "train.epochs=1", "--run", own / "run"
    )
    assert code == 0, err


def test_a_criterion_that_is_not_there_is_said_before_training(own, recipe, run_command):
    prune = "prune={ratio: 0.5, criterion: 'own_code:nowhere', passes: 1}"
    code, _, err = run_command("train", recipe, prune, "train.epochs=1", "--run", own / "run")
    assert code == 2
    assert "criterion 'own_code:nowhere' cannot be imported" in err
    assert "epoch" not in err


def test_an_own_detector_is_trained_evaluated_and_exported(run_command, tmp_path):
    make_coco(tmp_path / "coco", train=4, val=2)
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        """
detector: {name: "user_code:small_detector", kwargs: {anchors: 24}, constant_norms: false, size: 64, min_size: 64, max_size: 64}
data: {root: %s, batch_size: 2, workers: 0}
widths: {listed: [0.5, 1.0]}
train: {epochs: 1, lr: 0.001, warmup_epochs: 0}
device: cpu
"""
        % (tmp_path / "coco")
    )
    run = tmp_path / "run"
    for command in (
        ("train", recipe, "--run", run),
        ("eval", run, "--widths", "listed"),
        ("export", run, "--width", 0.5, "--out", tmp_path / "half"),
    ):
        code, _, err = run_command(*command)
        assert code == 0, err
    assert (tmp_path / "half" / "model.safetensors").exists()
    code, _, err = run_command("train", recipe, "detector.kwargs={anchorz: 3}", "--run", tmp_path / "other")
    assert code == 2
    assert (
        "unknown option of the detector 'user_code:small_detector' 'anchorz'; did you mean 'anchors'" in err
    )
