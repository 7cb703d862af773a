"""What is imported from the package itself, and when."""

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
    for name in rank_xmodal.__all__:
        assert getattr(rank_xmodal, name).__name__.split(".")[-1] == name
    assert rank_xmodal.losses.listnet.__name__ == "listnet"


def test_a_wrong_name_is_an_attribute_error_that_names_it():
    assert rank_xmodal.query_bank.choose_bank  # a module
    with pytest.raises(AttributeError, match="Rerankr"):
        _ = rank_xmodal.Rerankr
    with pytest.raises(ImportError, match="Rerankr"):
        exec("from rank_xmodal import Rerankr")


def test_help_and_a_wrong_option_do_not_wait_for_torch():
    ask = "from experiments import cli\ntry: cli.main({})\nexcept SystemExit: pass"
    assert not loads_torch(ask.format(["train", "--help"]))
    assert not loads_torch(ask.format(["train", "--los", "listnet"]))
    assert loads_torch("import rank_xmodal; rank_xmodal.losses")
