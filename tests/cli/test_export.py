import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from anywidth.models import SmallResNet
from anywidth.store import load

NAMES = {"model.safetensors", "model.pt2", "model.json"}


def small_net(run, width):
    return load(run / "net.safetensors", SmallResNet(channels=(8, 16))).extract(width).eval()


def images(n: int) -> torch.Tensor:
    return torch.linspace(-1, 1, n * 64).reshape(n, 1, 8, 8)


def test_files_and_default_place(trained, run_command, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    code, out, _ = run_command("export", run, "--width", "0.5")
    assert code == 0
    folder = run / "export-0.5"
    assert {path.name for path in folder.iterdir()} == NAMES
    assert set(out.split()) == {str(folder / name) for name in NAMES}


def test_weights_fit_a_plain_narrow_network(trained, run_command, tmp_path):
    run_command("export", trained, "--width", "0.5", "--out", tmp_path)
    plain = SmallResNet(channels=(4, 8)).eval()
    plain.load_state_dict(load_file(tmp_path / "model.safetensors"))
    torch.testing.assert_close(plain(images(3)), small_net(trained, 0.5)(images(3)))


def test_the_program_runs_without_anywidth_at_any_batch_size(
    trained, run_command, without_anywidth, tmp_path
):
    out = tmp_path / "a" / "b"
    run_command("export", trained, "--width", "0.25", "--out", out)
    printed = without_anywidth(
        "import torch\n"
        f"program = torch.export.load({str(out / 'model.pt2')!r}).module()\n"
        "for n in (1, 3, 50):\n"
        "    x = torch.linspace(-1, 1, n * 64).reshape(n, 1, 8, 8)\n"
        "    print(program(x).double().flatten().tolist())\n"
    )
    for n, line in zip((1, 3, 50), printed.splitlines(), strict=True):
        found = torch.tensor(json.loads(line)).reshape(n, 10)
        torch.testing.assert_close(found, small_net(trained, 0.25)(images(n)))


def test_onnx_at_any_batch_size(trained, run_command, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    code, _, err = run_command("export", trained, "--width", "0.5", "--out", tmp_path, "--onnx")
    assert code == 0, err
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    for n in (1, 5):
        (found,) = session.run(None, {name: images(n).numpy()})
        expected = small_net(trained, 0.5)(images(n)).detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_description(trained, run_command, tmp_path):
    run_command("export", trained, "--width", "0.5", "--out", tmp_path)
    facts = json.loads((tmp_path / "model.json").read_text())
    weights = load_file(tmp_path / "model.safetensors")
    assert facts["shapes"] == {key: list(value.shape) for key, value in weights.items()}
    assert facts["params"] == sum(p.numel() for p in SmallResNet(channels=(4, 8)).parameters())
    assert (facts["width"], facts["input"], facts["output"]) == (0.5, ["batch", 1, 8, 8], ["batch", 10])


def test_an_unlisted_width_is_calibrated(trained, run_command, tmp_path):
    code, _, err = run_command("export", trained, "--width", "0.75", "--out", tmp_path)
    assert code == 0
    assert "calibrating 0.75" in err
    assert load_file(tmp_path / "model.safetensors")["conv.weight"].shape == (6, 1, 3, 3)


def test_a_wrong_width_leaves_nothing(trained, refused, tmp_path):
    assert "1.5" in refused("export", trained, "--width", "1.5", "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_export_leaves_nothing(trained, refused, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.export, "save", full)
    message = refused("export", trained, "--width", "0.5", "--out", tmp_path / "out")
    assert message == "error: No space left on device\n"
    assert list(tmp_path.iterdir()) == []
