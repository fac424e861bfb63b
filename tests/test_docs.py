"""Every Python example of the README and the docs runs, page by page, in an empty directory."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "extending").glob("*.md")),
]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def examples(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [p for p in PAGES if examples(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    scope: dict[str, object] = {"__name__": "example"}
    for number, code in enumerate(examples(page), 1):
        exec(compile(code, f"{page.name}, example {number}", "exec", dont_inherit=True), scope)
    assert scope["aw"].__name__ == "anywidth"


def test_links_point_to_files() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_a_broken_example_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nassert 1 == 2\n```\n")
    with pytest.raises(AssertionError):
        exec(compile(examples(page)[0], page.name, "exec", dont_inherit=True), {})


def test_files_that_a_page_names_exist() -> None:
    """`solver.py`, `views/tensors.py`: a file of the package, by its name or the end of its path."""
    source = ROOT / "src" / "anywidth"
    paths = [str(p.relative_to(source)) for p in source.rglob("*.py")]
    for page in (ROOT / "docs" / "all-of-anywidth.md", ROOT / "docs" / "architecture.md"):
        for name in re.findall(r"`([\w/]+\.py)`", page.read_text(encoding="utf-8")):
            known = any(path == name or path.endswith(f"/{name}") for path in paths) or (ROOT / name).exists()
            assert known, f"{page.name} names {name}"
        for name in re.findall(r"`([a-z_/]+)/`", page.read_text(encoding="utf-8")):
            known = any(path.is_dir() for path in (*source.rglob(name), ROOT / name))
            assert known, f"{page.name} names {name}/"
