"""Draw lines of the source for a reader who has never seen it: python docs/newcomer/lines.py [SEED] [COUNT]

Lines of code only: no blank lines, comments, imports, docstrings, or lines of brackets alone; each with the function or
class around it, as in a traceback. Prints the lines without their place to stdout, and the answers to stderr.
"""

import ast
import random
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "anywidth"


def code_lines(path: Path) -> list[tuple[int, str, str]]:
    """Number, surrounding functions and classes, and text of every line of code."""
    text = path.read_text(encoding="utf-8")
    skipped: set[int] = set()
    around: dict[int, str] = {}

    def visit(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inside = f"{name}.{child.name}" if name else child.name
                around.update(
                    dict.fromkeys(range(child.lineno, (child.end_lineno or child.lineno) + 1), inside)
                )
                visit(child, inside)
            else:
                visit(child, name)

    tree = ast.parse(text)
    visit(tree, "")
    for node in ast.walk(tree):
        docstring = (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        )
        if docstring or isinstance(node, ast.Import | ast.ImportFrom):
            skipped |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return [
        (i, around.get(i, ""), s.strip())
        for i, s in enumerate(text.splitlines(), 1)
        if i not in skipped and len(s.strip()) >= 20 and not s.strip().startswith("#")
    ]


def main(seed: int = 0, count: int = 30) -> None:
    every = [(path, *line) for path in sorted(SOURCE.rglob("*.py")) for line in code_lines(path)]
    for number, (path, i, name, line) in enumerate(random.Random(seed).sample(every, count), 1):
        print(f"{number:2}  in {name or 'the module'}:  {line}")
        print(f"{number:2}  {path.relative_to(SOURCE)}:{i}", file=sys.stderr)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
