"""The worked examples of CONTRIBUTING.md, each carried out in a copy of the tree, block by block."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SECTIONS = dict(
    re.findall(
        r"^## (.*?)\n(.*?)(?=^## |\Z)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
)
BLOCKS = {
    title: re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) for title, text in SECTIONS.items()
}
# what the last command or script of an example says
SAYS = {
    "A law": "2 passed",
    "An additive noise": "1 passed",
    "A claim": "[confirmed] wu.sec2.sum",
    "A page": "lesson",
    "A preset": "wu.fig1a.ten  10 of 10",
}


@pytest.fixture
def tree(tmp_path):
    """A copy of what the examples need, without records and built things."""
    ignored = shutil.ignore_patterns("__pycache__", "records", "*.ipynb_checkpoints", "book")
    for folder in ("support", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for folder in ("support/book", "book"):
        shutil.copytree(ROOT / folder, tmp_path / folder, dirs_exist_ok=True)
    for name in ("_toc.yml", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run(words: list[str], tree: Path, text: str | None = None) -> str:
    words = [sys.executable, *words[1:]]
    own = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=tree, env=own, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def change(diff: str, tree: Path) -> None:
    """Carry out a diff whose lines, but for those that come, stand once in the file."""
    first, *lines = diff.splitlines(keepends=True)
    path = tree / first.removeprefix("--- ").strip()
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{path.name} holds {text.count(before)} times: {before}"
    path.write_text(text.replace(before, after), encoding="utf-8")


@pytest.mark.parametrize("title", SAYS)
def test_example(title, tree):
    scripts, said = [], ""
    for language, block in BLOCKS[title]:
        path = re.match(r"# (\S+\.(?:py|toml))\n", block)
        if language == "diff":
            change(block, tree)
        elif language == "bash":
            for line in block.splitlines():
                said = run(shlex.split(line), tree)
        elif path:
            target = tree / path[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block, encoding="utf-8")
        else:
            scripts.append(block)
    if scripts:
        said = run(["python", "-"], tree, "\n".join(scripts))
    assert SAYS[title] in said


def test_every_example_is_carried_out():
    assert [title for title, blocks in BLOCKS.items() if blocks] == list(SAYS)
