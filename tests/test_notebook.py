"""The example notebook runs, cell after cell, in a process and folder of its own."""

import json
import re
import subprocess
import sys
from pathlib import Path

NOTEBOOK = Path(__file__).parents[1] / "docs" / "example.ipynb"


def test_the_notebook_runs_and_its_ranker_is_ahead(tmp_path):
    told = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = [cell for cell in told["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells), "kept without outputs"
    whole = "\n".join("".join(cell["source"]) for cell in cells)
    done = subprocess.run([sys.executable, "-c", whole], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = {row: float(value) for row, value in re.findall(r"'(\w+)': 'R@1 ([\d.]+) %'", done.stdout)}
    assert figures["ranker"] > figures["csls"] > 0
    assert "Index(400 candidates" in done.stdout
