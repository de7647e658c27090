"""Ctrl-C, SIGTERM and SIGHUP: one sentence, an exit code, no traceback, nothing left behind."""

import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from conftest import make_split

from ltpost import cli
from ltpost.output import signals_held_back

#: a command that says when it has started and then writes for long; ``stuck`` is a clean-up that does not end
SLOW = """
import os, sys, time
import click
from ltpost.cli import cli, main
from ltpost.output import replacing

@click.command()
@click.argument("stuck", type=int)
def slow(stuck):
    with replacing("out.csv") as partial:
        partial.write_text("half")
        try:
            print("started", flush=True)
            time.sleep(60)
        finally:
            print("cleaning", flush=True)
            end = time.monotonic() + stuck
            while time.monotonic() < end:
                time.sleep(0.01)

type(cli).get_command = lambda *_: slow
main(["slow", sys.argv[1]])
"""


def as_in_the_foreground():
    """Ctrl-C ends the child, also where a shell has started the tests in the background, with SIGINT ignored."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def start(folder, stuck=0, code=SLOW, prepared=as_in_the_foreground):
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(stuck)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=prepared,
    )  # fmt: skip
    assert process.stdout.readline() == "started\n"
    return process


def terminated(folder, code):
    """A process after SIGTERM, which it must say and nothing else."""
    process = start(folder, code=code)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert said.strip() == "Stopped by SIGTERM; no file is half-written."
    return process


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("times", [1, 2])
def test_one_sentence(tmp_path, name, times):
    (tmp_path / "out.csv").write_text("earlier")
    process = start(tmp_path)
    number = getattr(signal, name)
    for _ in range(times):
        process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert said.strip() + "\n" == f"Stopped by {name}; no file is half-written.\n"
    assert process.returncode == 128 + number
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "earlier"


def test_a_later_signal_ends_a_clean_up_that_hangs(tmp_path):
    process = start(tmp_path, stuck=600)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cleaning\n"
    time.sleep(1.2)  # what counts as soon after
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert said.strip() + "\n" == "Stopped by SIGINT; no file is half-written.\n"
    assert process.returncode == 130
    assert not list(tmp_path.iterdir())


def test_a_signal_while_an_object_is_freed_is_not_lost(tmp_path):
    code = SLOW.replace('print("started", flush=True)', "free_for_long()").replace(
        "@click.command()",
        """
class Freed:
    def __del__(self):
        print("started", flush=True)
        time.sleep(60)

def free_for_long():
    Freed()

@click.command()""",
        1,
    )
    process = terminated(tmp_path, code)
    assert process.returncode == 143
    assert not list(tmp_path.iterdir())


def test_objects_that_a_signal_left_half_made_are_freed_in_silence(tmp_path):
    """A reader of images that was stopped while it was made prints an AttributeError as it is freed."""
    code = SLOW.replace('print("started", flush=True)', "HalfMade()").replace(
        "@click.command()",
        """
class HalfMade:
    def __init__(self):
        print("started", flush=True)
        time.sleep(60)
        self.whole = True

    def __del__(self):
        self.whole

@click.command()""",
        1,
    )
    terminated(tmp_path, code)


def test_nohup_is_respected(tmp_path):
    process = start(tmp_path, prepared=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    process.communicate()


def test_exit_codes_and_messages_are_as_before(tmp_path):
    make_split("val", 4).save(tmp_path / "features" / "val.h5")

    def run(*words):
        done = subprocess.run(
            [sys.executable, "-m", "ltpost", *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    assert run("info", "features/val.h5")[0] == 0
    code, _, said = run("info", "nothing.h5")
    assert (code, said.startswith("Error: nothing.h5: no such feature file")) == (1, True)
    assert run("tnorm", "--select", "best")[0] == 2
    assert run("--version")[0] == 0
    assert run("info", "--help")[0] == 0
    assert run("nonsense")[0] == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_standard_output_is_one_sentence(tmp_path):
    make_split("val", 4).save(tmp_path / "val.h5")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ltpost", "info", "val.h5"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
    assert done.returncode != 0
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_signal_that_a_library_made_another_error_of_is_one_sentence(monkeypatch, capsys):
    """HDF5 calls Python to write; a signal that comes there ends in a SystemError."""

    @click.command()
    def interrupted():
        raise SystemError("returned a result with an exception set") from KeyboardInterrupt()

    @click.command()
    def broken():
        raise SystemError("something else")

    monkeypatch.setattr(cli.signals, "catch", lambda: None)
    for command, expected in ((interrupted, SystemExit), (broken, SystemError)):
        monkeypatch.setattr(type(cli.cli), "get_command", lambda *_, command=command: command)
        with pytest.raises(expected):
            cli.main(["x"])
    assert capsys.readouterr().err == "Stopped by SIGINT; no file is half-written.\n"


def signalled(passed):
    with signals_held_back():
        signal.raise_signal(signal.SIGTERM)
        passed.append("the block went on")


def test_a_signal_that_is_held_back_comes_afterwards():
    before, passed = signal.getsignal(signal.SIGTERM), []
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            signalled(passed)
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert passed == ["the block went on"]


def test_a_signal_while_torch_writes_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    from ltpost.extract.export import formats

    class Interrupted(io.BytesIO):
        def write(self, content):
            if self.tell():
                raise KeyboardInterrupt
            return super().write(content)

    monkeypatch.setattr(Path, "open", lambda *_: Interrupted())
    with pytest.raises(KeyboardInterrupt):
        formats.save({"a": torch.zeros(1000)}, tmp_path / "out.pth")


def test_hdf5_is_quiet_when_a_signal_came_as_it_closed(tmp_path):
    """HDF5 then writes once more as Python ends, into a file that is closed."""
    words = (
        "import h5py, numpy, sys\n"
        "from pathlib import Path\n"
        "from ltpost.data.write import _Checked\n"
        "raw = _Checked(Path(sys.argv[1]), 'w+')\n"
        "file = h5py.File(raw, 'w')\n"
        "file['features'] = numpy.ones((1000, 8))\n"
        "raw.close()\n"
    )
    run = subprocess.run([sys.executable, "-c", words, tmp_path / "a.h5"], capture_output=True, text=True, check=True)
    assert run.stderr == ""


def test_a_signal_inside_of_a_lock_waits_until_it_is_given_back(tmp_path):
    """Raised there it leaves the lock held, or a sleeper asleep for ever: an extraction did not end after a SIGHUP."""
    code = """
import signal, sys, threading, time
from ltpost.cli import signals
signals.catch()
condition, sent = threading.Condition(), []

def trace(frame, event, _):
    if frame.f_code.co_filename != threading.__file__ or frame.f_code.co_name not in ("__enter__", "notify"):
        return None
    frame.f_trace_opcodes = True
    if event == "opcode" and not sent and frame.f_code.co_name == sys.argv[1]:
        sent.append(frame)
        signals._stop(signal.SIGTERM, frame)  # as Python does where a signal has come
    return trace

sys.settrace(trace)
try:
    with condition:
        condition.notify()
    sys.settrace(None)
    time.sleep(10)
except KeyboardInterrupt:
    sys.settrace(None)
    free = condition.acquire(blocking=False)
    print("free" if sent and free else "held")
"""
    for name in ("__enter__", "notify"):
        words = [sys.executable, "-c", code, name]
        run = subprocess.run(words, capture_output=True, text=True, check=True, preexec_fn=as_in_the_foreground)
        assert (run.stdout, run.stderr) == ("free\n", "")


def test_a_process_that_waits_for_a_thread_is_stopped(tmp_path):
    code = """
import threading
from ltpost.cli import signals
signals.catch()
event = threading.Event()
try:
    print("started", flush=True)
    event.wait()
except KeyboardInterrupt:
    print("stopped")
"""
    process = start(tmp_path, code=code)
    process.send_signal(signal.SIGHUP)
    said, _ = process.communicate(timeout=60)
    assert said == "stopped\n"
