"""What is imported from the package itself, and when."""

import importlib.metadata
import subprocess
import sys

import pytest

import rank_xmodal


def loads_torch(code):
    program = f"import sys\n{code}\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1] == "True"


def test_every_public_name_is_there_and_listed():
    assert set(rank_xmodal.__all__) <= set(dir(rank_xmodal))
    assert rank_xmodal.__version__ == importlib.metadata.version("rank-xmodal")
    for name in set(rank_xmodal.__all__) - {"__version__"}:
        assert getattr(rank_xmodal, name).__name__.split(".")[-1] == name
    assert rank_xmodal.losses.listnet.__name__ == "listnet"


def test_a_wrong_name_is_an_attribute_error_that_names_it():
    assert rank_xmodal.retrieval.query_bank.choose_bank  # a module
    with pytest.raises(AttributeError, match="Rerankr"):
        _ = rank_xmodal.Rerankr
    with pytest.raises(ImportError, match="Rerankr"):
        exec("from rank_xmodal import Rerankr")


def test_help_and_a_wrong_option_do_not_wait_for_torch():
    ask = "from experiments.cli.main import main\ntry: main({})\nexcept SystemExit: pass"
    assert not loads_torch(ask.format(["train", "--help"]))
    assert not loads_torch(ask.format(["train", "--los", "listnet"]))
    assert loads_torch("import rank_xmodal; rank_xmodal.losses")
