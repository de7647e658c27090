"""``--config`` and ``--write-config``: options of every command from a file, and back."""

import os
import subprocess
import sys

import click
import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib
from click.testing import CliRunner

from ltpost.cli import cli


def run(*words):
    return CliRunner().invoke(cli, words, catch_exceptions=False)


def good(*words):
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture
def config(at_home):
    """Write the text of a file; returns its name."""

    def written(text):
        (at_home / "ltpost.toml").write_text(text, encoding="utf-8")
        return "ltpost.toml"

    return written


def test_a_file_is_as_good_as_the_options(config):
    file = config('seed = 3\nselect = "few"\n[tnorm]\nbias = "scale"\ntau-grid = [0, 1.5]\n[la]\ntau-grid = "0:1:1"\n')
    written = good("tnorm", "--config", file, "--json")
    assert written == good(
        "tnorm", "--seed", "3", "--select", "few", "--bias", "scale", "--tau-grid", "0,1.5", "--json"
    )
    assert good("la", "--config", file) == good("la", "--seed", "3", "--select", "few", "--tau-grid", "0:1:1")


def test_the_command_line_goes_first_then_the_section(config):
    file = config('select = "few"\n[tnorm]\nselect = "many"\n')
    for name, of_file, same in (
        ("tnorm", ["--select", "top1"], ["--select", "top1"]),
        ("tnorm", [], ["--select", "many"]),
        ("la", [], ["--select", "few"]),
    ):
        good(name, *same)  # so that neither of the others finds a head of other settings
        assert good(name, "--config", file, *of_file) == good(name, *same)


def test_lists_flags_and_options_with_a_value_of_their_own(config, at_home):
    file = config('[compare]\nmethods = ["tnorm", "la"]\ncalibration = true\nintervals = false\n')
    assert good("compare", "--config", file) == good(
        "compare", "--methods", "tnorm,la", "--calibration", "--no-intervals"
    )
    file = config('[evaluate]\nhead = ["heads/tnorm.safetensors", "heads/la.safetensors"]\n')
    words = ["--head", "heads/tnorm.safetensors", "--head", "heads/la.safetensors"]
    assert good("evaluate", "--config", file) == good("evaluate", *words)


def test_what_is_written_runs_again(at_home):
    words = ["crt", "--strengths", "0.1,1", "--select", "few", "--tolerance", "0.01", "--no-bold"]
    first = good(*words, "--write-config", "run.toml")
    assert good("crt", "--config", "run.toml", "--write-config", "again.toml") == first
    for name in ("run.toml", "again.toml"):
        section = tomllib.loads((at_home / name).read_text())["crt"]
        assert section["strengths"] == [0.1, 1.0]
        assert (section["select"], section["bold"], section["seed"], section["features"]) == (
            "few",
            False,
            0,
            "features",
        )
        assert "epochs" not in section  # the default of the method, which other options may exclude
    assert "# sampler: class-balanced\n" in (at_home / "run.toml").read_text()


def test_texts_with_quotes_survive(at_home):
    title = 'a "title" \\ with 猫'
    good("report", "--methods", "pc-softmax", "--title", title, "--write-config", "run.toml")
    assert tomllib.loads((at_home / "run.toml").read_text(encoding="utf-8"))["report"]["title"] == title


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed = 1", "ltpost.toml: sed is no option of any command; did you mean seed?"),
        ("[tnrom]", "ltpost.toml: [tnrom] is no command of ltpost; did you mean tnorm?"),
        ("[tnorm]\nbiass = 1", "ltpost.toml: biass is no option of tnorm; did you mean bias?"),
        ("[tnorm]\nconfig = 'x'", "ltpost.toml: config is no option of tnorm"),
        ("[tnorm]\nseed = 'x'", "ltpost.toml: seed has a value that it cannot have: 'x' is not a valid integer"),
        ("[tnorm]\nseed = [1, 2]", "ltpost.toml: seed has a value that it cannot have: '1,2' is not"),
        ("[tnorm]\nselect = 'no'", "ltpost.toml: select has a value that it cannot have: 'no' is not one of"),
        ("[tnorm]\ntau-grid = '0:x'", "ltpost.toml: tau-grid has a value that it cannot have: '0:x' is not a grid"),
        ("[tnorm", "ltpost.toml: must be a TOML file"),
    ],
)
def test_mistakes_are_named(config, text, message):
    result = run("tnorm", "--config", config(text))
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_options_of_other_commands_are_let_be(config):
    file = config("tau-grid = '0:1:1'\nepochs = 3\n")
    assert good("la", "--config", file) == good("la", "--tau-grid", "0:1:1")


def test_a_file_that_is_not_there(at_home):
    result = run("tnorm", "--config", "none.toml")
    assert (result.exit_code, result.stderr) == (1, "Error: none.toml: cannot be read (No such file or directory)\n")


def test_every_command_has_both_options_once():
    context = click.Context(cli)
    for _ in range(2):
        for name in cli.list_commands(context):
            names = [parameter.name for parameter in cli.get_command(context, name).params]
            assert names.count("config") == names.count("write_config") == 1, name


def test_completion_in_shells():
    """As the documentation says: click's own, for commands and options."""
    env = {**os.environ, "_LTPOST_COMPLETE": "bash_complete", "COMP_WORDS": "ltpost tnorm --tau", "COMP_CWORD": "2"}
    code = "from ltpost.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["plain,--tau-grid"]
