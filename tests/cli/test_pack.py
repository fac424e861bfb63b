def test_mistakes_in_packing(images, image2lmdb, refused, tmp_path):
    out = tmp_path / "out"
    assert "expected train/CLASS/FILE and val/CLASS/FILE, or train.lmdb" in refused("pack", tmp_path, out)
    assert "does not say how many classes there are; give --classes" in refused("pack", image2lmdb, out)
    assert "expected 0 to 1; set the number of classes" in refused("pack", image2lmdb, out, "--classes", 2)
    assert "give another folder" in refused("pack", image2lmdb, image2lmdb, "--classes", 3)
    assert "are the classes; leave it out" in refused("pack", images, out, "--classes", 3)
    assert not out.exists()
