"""The README's commands run, but for `make` targets and servers."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, tmp_path):
    """Each command as written, except that its results go to a folder of the test's own."""
    words = [sys.executable if word == "python" else word for word in shlex.split(command)]
    words[words.index("-o") + 1] = str(tmp_path / "results")
    words += ["--work", str(tmp_path / "work")] if "experiments" in words else []
    done = subprocess.run(
        words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "results").rglob("*.json" if "experiments" in words else "*.html"))


def test_four_lines_on_ones_own_model():
    torch.manual_seed(0)
    dataset = torch.utils.data.TensorDataset(torch.randn(2000, 4), torch.randint(0, 3, (2000,)))
    model = torch.nn.Linear(4, 3)
    before = model.weight.detach().clone()
    names = {
        "dataset": dataset,
        "loader": torch.utils.data.DataLoader(dataset, batch_size=500, shuffle=True, drop_last=True),
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
    }
    exec(blocks("python")[0], names)
    assert torch.isfinite(model.weight).all()
    assert (model.weight != before).any()
    # the weights it used: mean 1/B, sum one, the variance that turns batches of 500 into batches of 50
    losses = torch.zeros(500, requires_grad=True)
    draws = [torch.autograd.grad(names["law"].weigh(losses, names["generator"]), losses)[0] for _ in range(4000)]
    weights = torch.stack(draws)
    assert weights.mean().item() == pytest.approx(1 / 500, rel=1e-3)
    assert weights.sum(1).numpy() == pytest.approx(1, abs=1e-5)
    assert weights.var(0).mean().item() == pytest.approx((500 - 50) / (50 * 500 * 499) * (1 - 1 / 500), rel=0.01)


def test_measuring_ones_own_model():
    torch.manual_seed(0)
    inputs, targets = torch.randn(60, 4), torch.randint(0, 3, (60,))
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    generator = torch.Generator().manual_seed(1)
    names = {"inputs": inputs, "targets": targets, "model": model, "generator": generator}
    exec(blocks("python")[1], names)
    # what it printed: the largest eigenvalue of the dense Hessian, and the ratio of traces inside its interval
    dense = names["hessian"].dense()
    assert names["spectrum"].values[0].item() == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-4)
    ratio = names["intervals"]["ratio"]
    assert ratio.low <= names["found"].ratio <= ratio.high
    torch.nn.functional.cross_entropy(model(inputs), targets).backward()
    before = model[0].weight.grad.clone()
    names["noise"](model, generator)
    assert torch.isfinite(model[0].weight.grad).all()
    assert (model[0].weight.grad != before).any()


def test_commands_are_there():
    assert any(" run " in command for command in COMMANDS)
    assert any(" batch " in command for command in COMMANDS)


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert "CONTRIBUTING.md" in links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_target_that_it_names_is_one_of_the_makefile():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"book", "test"} <= set(re.findall(r"\bmake ([a-z]+)", README)) <= set(targets)
