import json

from anywidth import workflows


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
