"""Imports point one way, from the core outwards; a reversed arrow fails here."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import anywidth

ROOT = Path(anywidth.__file__).parent

# Every row may import the rows before it; the parts of one row know nothing of each other.
ROWS = (
    ("errors",),
    ("compat",),
    ("files", "seeds", "channel_select", "import_path", "settings", "config_entries"),
    ("space",),
    ("tracing", "saving"),
    ("views", "pretrained_configs"),
    ("norms",),
    ("cost",),
    ("graph",),
    ("elastic",),
    ("store", "reorder"),
    ("train",),
    ("search", "prune", "gating", "detect"),
    ("export", "interop", "runtime"),
    ("recipe",),
    ("workflows",),
    ("cli",),
)
LEVEL = {part: i for i, row in enumerate(ROWS) for part in row}
WIDTHLESS = ("models", "data")  # these know nothing of width
FRONT = ("__init__", "__main__")  # the public surface imports everything


def part_of(module: str) -> str | None:
    """`anywidth.train.step` -> `train`; None for other packages."""
    names = module.split(".")
    return None if names[0] != "anywidth" else names[1] if len(names) > 1 else "__init__"


def imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and part of every import of this package, also inside functions."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, *([base] if base else [])])
            found = [f"{base}.{alias.name}" for alias in node.names] if base == "anywidth" else [base]
        for name in found:
            part = part_of(name)
            if part is not None:
                yield node.lineno, part


def reversed_arrows(mine: str, source: str, package: str) -> list[str]:
    """What part `mine` imports against the order."""
    wrong = []
    for line, other in imports(source, package):
        if other == mine:
            continue
        if other.startswith("__version") or (other == "errors" and mine != "errors"):
            continue
        if mine in WIDTHLESS or mine in ("errors", "files", "seeds"):
            allowed = other in ("compat", "files", "seeds", "channel_select") and mine in WIDTHLESS
        elif other in WIDTHLESS:
            allowed = LEVEL[mine] >= LEVEL["train"]
        else:
            allowed = other in LEVEL and LEVEL[other] < LEVEL[mine]
        if not allowed:
            wrong.append(f"{mine} imports {other} (line {line})")
    return wrong


def sources() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        names = path.relative_to(ROOT).with_suffix("").parts
        found.append((names[0], path))
    return found


@pytest.mark.parametrize(
    ("mine", "path"), sources(), ids=lambda v: str(v.relative_to(ROOT)) if isinstance(v, Path) else ""
)
def test_imports_point_one_way(mine, path):
    if mine in FRONT:
        return
    assert mine in LEVEL or mine in WIDTHLESS, f"{path}: give '{mine}' a place in the order"
    package = ".".join(["anywidth", *path.relative_to(ROOT).parts[:-1]])
    assert reversed_arrows(mine, path.read_text(encoding="utf-8"), package) == []


@pytest.mark.parametrize(
    ("mine", "source", "package"),
    [
        ("compat", "from anywidth.channel_select import INDEX", "anywidth.compat"),
        ("space", "from anywidth.views import Blueprint", "anywidth.space"),
        ("tracing", "import anywidth.elastic", "anywidth.tracing"),
        ("views", "from anywidth import elastic", "anywidth"),
        ("views", "from . import norms", "anywidth"),
        ("tracing", "from ..views import cut", "anywidth.tracing"),
        ("norms", "from anywidth.cost.cost_model import CostModel", "anywidth"),
        ("elastic", "from anywidth.store import save", "anywidth"),
        ("views", "def f():\n    from anywidth.elastic import Elastic", "anywidth"),
        ("train", "from anywidth.search.greedy import greedy", "anywidth.train"),
        ("train", "import anywidth.export", "anywidth"),
        ("recipe", "from anywidth.cli import app", "anywidth"),
        ("models", "from anywidth.space.width import Width", "anywidth.models"),
        ("data", "from anywidth.models import SmallResNet", "anywidth.data"),
        ("errors", "import anywidth.space.width", "anywidth"),
        ("elastic", "from anywidth.models import SmallResNet", "anywidth"),
        ("train", "from anywidth import Elastic", "anywidth.train"),
    ],
)
def test_a_reversed_arrow_is_found(mine, source, package):
    assert len(reversed_arrows(mine, source, package)) == 1


@pytest.mark.parametrize(
    ("mine", "source", "package"),
    [
        ("elastic", "from anywidth.saving import save", "anywidth"),
        (
            "train",
            "from anywidth.elastic import Elastic\nfrom anywidth.train.step import step",
            "anywidth.train",
        ),
        ("cli", "from anywidth.recipe import read\nfrom anywidth.models import SmallResNet", "anywidth.cli"),
        (
            "data",
            "from anywidth.errors import AnywidthError\nfrom anywidth.files import replacing\nimport torch",
            "anywidth.data",
        ),
        ("tracing", "from .labels import Block\nfrom anywidth.space.width import Width", "anywidth.tracing"),
    ],
)
def test_the_right_direction_is_no_error(mine, source, package):
    assert reversed_arrows(mine, source, package) == []


def test_the_public_names_are_those_listed():
    assert set(anywidth.__all__) <= set(dir(anywidth))
    for name in anywidth.__all__:
        getattr(anywidth, name)


def loaded_by(statement: str) -> set[str]:
    """Packages that a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(out.split())


def test_importing_the_package_loads_nothing_heavy():
    assert not {"torch", "numpy", "scipy", "typer"} & loaded_by("import anywidth")


def test_the_core_loads_torch_but_not_what_only_methods_need():
    heavy = {
        "torchvision",
        "timm",
        "torch._dynamo",
        "torch.distributed.tensor",
        "scipy.stats",
        "sklearn",
        "matplotlib",
        "typer",
    }
    modules = loaded_by("import anywidth as aw; aw.Elastic, aw.load, aw.reorder_, aw.Width")
    assert "torch" in modules
    assert not heavy & modules


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'anywidth' has no attribute 'Elastik'"):
        anywidth.Elastik  # noqa: B018
    assert "Elastic" in dir(anywidth)


def test_no_two_files_import_each_other():
    """Imports inside functions and for types count: two such files are one."""
    modules = {
        ".".join(("anywidth", *p.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): p
        for p in ROOT.rglob("*.py")
    }
    imported: dict[str, set[str]] = {}
    for name, path in modules.items():
        nodes = [
            n
            for n in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(n, ast.ImportFrom) and n.module
        ]
        targets = {n.module for n in nodes} | {f"{n.module}.{alias.name}" for n in nodes for alias in n.names}
        imported[name] = targets & modules.keys()
    packages = [(a, b) for a in modules for b in modules if b.startswith(a + ".")]
    circles = [
        (a, b) for a in imported for b in imported[a] if a < b and a in imported[b] and (a, b) not in packages
    ]
    assert circles == []
