"""The benchmark's own machinery, and the page it writes; what it measures is never asserted here."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support import bench
from support.bench import measure
from support.experiments import records

ROOT = Path(__file__).parent.parent


def test_a_ratio_compares_two_routes(monkeypatch):
    """By a clock of the test's own: the first route takes 4 units, then 8; the second always 2."""
    now, taken = [0.0], {"first": iter([4.0] * 7 + [8.0] * 100)}
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])

    def first():
        now[0] += next(taken["first"])

    def second():
        now[0] += 2.0

    row = measure.ratio(first, second, pairs=20)
    assert (row["median"], row["seconds"], row["pairs"]) == (4.0, [8.0, 2.0], 20)
    assert row["quartiles"] == [4.0, 4.0]


def test_a_peak_is_what_the_work_needs_above_what_is_held():
    code = (
        "import numpy as np; from support.bench.measure import peak_above; held = np.ones(2**22);"
        "print(peak_above(lambda: np.ones(2**23).sum()), peak_above(lambda: None))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    peak, _ = map(int, done.stdout.split())
    assert 0.9 * 2**26 < peak < 1.5 * 2**26


def test_a_row_runs_in_its_own_process():
    row = measure.in_own_process("training_memory", "chunks of 100")
    assert row["peak_bytes"] < 2**30
    with pytest.raises(RuntimeError, match="'no such row' failed"):
        measure.in_own_process("routes", "no such row")


def test_the_page_shows_every_row_of_the_record(tmp_path):
    """The committed record and page belong together: writing the page again changes nothing."""
    record = records.read(ROOT / "notebooks" / "records" / f"{bench.RECORD}.json")
    assert {kind: set(named) for kind, named in bench.rows().items()} == {
        kind: set(named) for kind, named in record["final"].items()
    }
    bench.write_page(record, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert text == (ROOT / "book" / "how_fast_it_runs.md").read_text(encoding="utf-8")
    for named in bench.rows().values():
        assert all(f"| {name} |" in text for name in named)


def test_a_benchmark_needs_a_book_to_write_into(tmp_path, capsys):
    assert bench.main(tmp_path) == 2
    assert "run the benchmark in the repository's root" in capsys.readouterr().err


@pytest.mark.parametrize("route", ["_per_sample", "_gram", "_svd"])
def test_the_routes_to_gaussian_noise_draw_the_same_law(route):
    """Mean of |v − E v|² over 300 draws against the trace of C, within a normal interval of five standard errors; a
    linear model, so that d is small.
    """
    import torch

    from support.bench import noise

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(2)
    inputs, targets = measure.images(60, flat=True)
    model = torch.nn.Linear(64, 10)
    exact = float(noise._centred(model, inputs, targets).square().sum())
    mean = noise._gradient_matrix(model, inputs, targets).mean(0) if route == "_per_sample" else 0.0
    draw = getattr(noise, route)(model, inputs, targets, generator)
    squares = np.array([float((draw() - mean).square().sum()) for _ in range(300)])
    assert abs(squares.mean() - exact) < 5 * squares.std() / 300**0.5


def test_the_record_is_json_without_surprises():
    text = (ROOT / "notebooks" / "records" / f"{bench.RECORD}.json").read_text(encoding="utf-8")
    assert json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n" == text


def test_what_a_device_is_asked_can_be_asked_of_a_processor(capsys):
    """Every line of it, at tiny sizes; the numbers mean nothing here."""
    from support.bench import device

    tiny = device.Sizes(n=20, b=4, seeds=1, steps=1, network="ResNet8", pixels=8, batch=4, chunk=2, matrix=8)
    assert device.main("cpu", tiny) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("goal" in line for line in lines) == 10 and all(": " in line for line in lines[1:-1])
    assert all(float(line.rpartition(": ")[2]) > 0 for line in lines[1:-1])


def test_a_device_that_is_not_there_is_one_line(capsys, monkeypatch):
    from support.bench import device

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device.main() == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: device = 'cuda' was asked for") and shown.err.count("\n") == 1 and not shown.out
