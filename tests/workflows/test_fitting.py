from anywidth import workflows


def test_a_finished_training_is_read(training, recipe, overrides, run, recorder, capfd):
    summary = workflows.train(recipe, run=str(run), overrides=overrides, reporter=recorder)
    assert summary.results == training[0].results
    assert recorder.messages == [f"{run}: already trained; these are its results"]
    workflows.train(recipe, run=run, overrides=overrides)
    assert capfd.readouterr() == ("", "")
