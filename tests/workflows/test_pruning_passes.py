import json

from anywidth import recipe as recipes
from anywidth import workflows
from anywidth.workflows.pruning_passes import pass_recipe, pass_rows


def test_passes_prune_and_train_again(recipe, tmp_path, recorder):
    overrides = (
        "train.epochs=1", "train.warmup_epochs=0", "train.ema=0", "train.target=labels", "widths.policy=listed",
        "widths.listed=[1.0]", "model.kwargs={channels: [8, 16]}", "prune={ratio: 0.3, passes: 1}", "gate=null",
    )  # fmt: skip
    summary = workflows.train(recipe, run=tmp_path / "run", overrides=overrides, reporter=recorder)
    before, after = summary.passes
    pruned = json.loads((tmp_path / "run" / "pass-1" / "results.json").read_text())["rows"][-1]
    assert (after["macs"], after["accuracy"]) == (pruned["macs"], pruned["accuracy"])
    assert before["macs_share"] == 1
    assert after["macs_share"] == pruned["macs"] / summary.rows[-1]["macs"] < 1
    (title,) = recorder.titles
    assert title.startswith(f"{tmp_path / 'run' / 'pruned'}: ")


def pruned_recipe(recipe, overrides, *changes: str):
    plain = ("train.ema=0", "train.target=labels", "widths.policy=listed", "widths.listed=[1.0]", "gate=null")
    return recipes.load(recipe, (*overrides, *plain, "model.kwargs={channels: [8, 16]}", *changes))


def test_a_pass_trains_what_is_left_with_its_own_settings(recipe, overrides, tmp_path):
    first = pruned_recipe(
        recipe, overrides, "prune={ratio: 0.3, passes: 2, epochs: 4, lr: 0.02, sparse: true}", "train.epochs=10",
        "train.schedule=multistep", "train.milestones=[5, 8]", "train.sparsity={l1: 0.1, init: 0.5}",
    )  # fmt: skip
    between, last = (pass_recipe(first, tmp_path / "pruned", is_final=final) for final in (False, True))
    for later in (between, last):
        assert (later.train.epochs, later.train.lr, later.train.milestones) == (4, 0.02, (2.0, 3.2))
        assert (later.model.pruned, later.model.weights, later.prune) == (
            str(tmp_path / "pruned"),
            None,
            None,
        )
        assert later.train.sparsity.init == 0.0
    assert (between.train.sparsity.l1, last.train.sparsity.l1) == (0.1, 0.0)


def test_without_settings_of_its_own_a_pass_trains_as_the_first_did(recipe, overrides, tmp_path):
    first = pruned_recipe(recipe, overrides, "prune={ratio: 0.3, passes: 1}", "train.sparsity={l1: 0.1}")
    later = pass_recipe(first, tmp_path, is_final=False)
    assert (later.train.epochs, later.train.lr) == (first.train.epochs, first.train.lr)
    assert later.seed == first.seed


def test_costs_of_passes_are_shares_of_the_first(tmp_path):
    for name, macs, params in (("a", 200, 50), ("b", 100, 20)):
        (tmp_path / name).mkdir()
        rows = [{"accuracy": 0.1, "macs": 1, "params": 1}, {"accuracy": 0.5, "macs": macs, "params": params}]
        (tmp_path / name / "results.json").write_text(json.dumps({"rows": rows}))
    assert pass_rows([tmp_path / "a", tmp_path / "b"]) == [
        {"pass": 0, "accuracy": 0.5, "macs": 200, "macs_share": 1.0, "params": 50, "params_share": 1.0},
        {"pass": 1, "accuracy": 0.5, "macs": 100, "macs_share": 0.5, "params": 20, "params_share": 0.4},
    ]
