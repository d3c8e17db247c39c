"""The package's floors: each knows only those below it. The imports are read from the source, inside functions too."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parent.parent / "support"
FLOORS = {
    "ground": "errors files jobs",
    "mathematics": "_ascent _random additive alignment batches complexity coupling covariances curvature "
    "derivatives equivalence exact gradients intervals measures msgd operators orders regulariser risk sampling "
    "sharpness spectra strength trust",
    "experiments": "experiments",
    "page kit": "animation ball calculator page plotting recorded style tables trials widget",
    "claims": "claims",
    "book": "book",
    "top": "__main__ bench report",
}
HEIGHT = {name: height for height, names in enumerate(FLOORS.values()) for name in names.split()}
# modules that must be there at once, for pages and commands that need no network
LIGHT = ("errors", "sampling", "intervals", "equivalence", "exact")


def modules() -> dict[str, ast.Module]:
    """The syntax trees of all modules by name; packages by theirs."""
    return {
        ".".join(path.relative_to(SUPPORT.parent).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
            path.read_text(encoding="utf-8")
        )
        for path in sorted(SUPPORT.rglob("*.py"))
    }


def imported(tree: ast.AST, known) -> set[str]:
    """The modules of the package that a tree imports, wherever the statement stands."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that they can be read"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in known and name != "support"}


def upwards(trees: dict[str, ast.AST]) -> set[tuple[str, str]]:
    """Every import of a module on a higher floor."""
    return {
        (name, other)
        for name, tree in trees.items()
        if name != "support"
        for other in imported(tree, trees)
        if HEIGHT[other.split(".")[1]] > HEIGHT[name.split(".")[1]]
    }


def test_every_module_has_a_floor():
    assert {name.split(".")[1] for name in modules() if name != "support"} <= set(HEIGHT)


def test_no_arrow_points_upwards():
    assert upwards(modules()) == set()


def test_no_two_modules_need_each_other():
    """Nor do more in a circle; a package's list of what it offers stands for its modules."""
    trees = modules()
    packages = {name for name in trees if any(other.startswith(f"{name}.") for other in trees)}
    arrows = {name: imported(tree, trees) - packages - {name} for name, tree in trees.items() if name not in packages}
    assert len(list(TopologicalSorter(arrows).static_order())) == len(arrows)  # raises CycleError, which names a circle


def test_the_package_itself_imports_nothing():
    trees = modules()
    assert imported(trees["support"], trees) == set()


@pytest.mark.parametrize(
    "line",
    [
        "from support import page",
        "import support.page",
        "from support.page import begin",
        "def f():\n    from support import page",
    ],
)
def test_an_arrow_upwards_is_found(line):
    trees = {name: ast.parse("") for name in ("support", "support.page", "support.errors")}
    trees["support.exact.recipes"] = ast.parse(line)
    assert upwards(trees) == {("support.exact.recipes", "support.page")}
    assert (
        upwards({**trees, "support.exact.recipes": ast.parse("import math\nfrom support.errors import Refused")})
        == set()
    )


@pytest.mark.parametrize("part", LIGHT)
def test_what_needs_no_torch_does_not_import_it(part):
    """Nor does anything that it imports."""
    names = [name for name in modules() if name == f"support.{part}" or name.startswith(f"support.{part}.")]
    code = f"import importlib, sys; [importlib.import_module(n) for n in {names!r}]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=SUPPORT.parent, check=False).returncode == 0
