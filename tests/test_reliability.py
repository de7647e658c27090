"""What measures reliability: a page keeps its sections, and a fault is seen as one."""

import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it forks, and strikes with signals")

from benchmarks.forks import Ended  # noqa: E402
from benchmarks.pages import section, write_section  # noqa: E402
from benchmarks.torture import Prepared, Scenario, Tally, judge  # noqa: E402


def test_a_section_of_a_page_is_written_without_touching_the_others(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\nWords.\n")
    write_section(page, "One", "first")
    write_section(page, "Two", "### Inner\n\nsecond")
    write_section(page, "One", "first, \\1 again")
    assert page.read_text() == "# Title\n\nWords.\n\n## One\n\nfirst, \\1 again\n\n## Two\n\n### Inner\n\nsecond\n"
    assert section(page, "Two") == "### Inner\n\nsecond"
    assert section(page, "Three") == ""


def test_torture_sees_what_is_wrong(tmp_path, capsys):
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "in.csv").write_text("input")
    scenario = Scenario("a command", [], ["out.csv"], locks=True)
    made = Prepared(
        scenario, tmp_path, folder, {"in.csv"}, {"out.csv": b"earlier"}, {"out.csv": [b"earlier", b"new"]},
        {"out.csv": b"new"}, 1.0,
    )  # fmt: skip

    def faults(killed=False, said="", **files):
        made.reset(keep_outputs=True)
        for name, text in files.items():
            (folder / name.replace("_", ".", 1)).write_text(text) if text else (folder / "out.csv").unlink()
        tally = Tally()
        judge(made, Ended(1, said, 0.0), "it", tally, had_earlier=True, killed=killed)
        return tally.faults

    assert not faults()
    assert not faults(out_csv="new")
    assert faults(out_csv="ne") == ["it: out.csv is neither the earlier nor the new one"]
    assert faults(out_csv="") == ["it: out.csv is lost"]
    assert faults(other_csv="x") == ["it: left ['other.csv']"]
    temporary = {"out_csv.12-0123abcd.partial": "half"}
    assert faults(**temporary) == ["it: left ['out.csv.12-0123abcd.partial']"]
    assert not faults(killed=True, **temporary)
    assert faults(said="Traceback (most") == ["it: traceback\nTraceback (most"]
    assert "fault: it" in capsys.readouterr().err
