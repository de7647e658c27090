"""Every writer: what is there is whole, what was there is kept, nothing is left behind."""

import contextlib
import multiprocessing
import os
import resource
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import interrupted_at, make_split

from ltpost import DataError, LinearHead, load, load_head, output
from ltpost.data import write
from ltpost.output import replacing

HEAD = LinearHead(np.arange(12.0).reshape(4, 3), np.arange(4.0))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def save(kind, path):
    if kind == "features":
        return make_split("val", 4).save(path)
    if kind == "head":
        return HEAD.save(path)
    with replacing(path) as partial:
        partial.write_text("some text")
    return path


KINDS = ["features", "head", "text"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_mode_is_that_of_any_new_file(tmp_path, kind):
    before = os.umask(0o027)
    try:
        save(kind, tmp_path / "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_there_keeps_its_mode(tmp_path, kind):
    (tmp_path / "x").touch(0o600)
    save(kind, tmp_path / "x")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", KINDS)
def test_a_symlink_is_followed(tmp_path, kind):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere" / "x")
    save(kind, link)  # to what is not there yet
    save(kind, link)  # and to what is
    assert link.is_symlink()
    assert names(tmp_path / "elsewhere") == ["x"]
    assert names(tmp_path) == ["elsewhere", "link"]


@pytest.mark.parametrize("kind", KINDS)
def test_dev_null_stays_a_device(tmp_path, kind):
    save(kind, os.devnull)
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    link = tmp_path / "null"
    link.symlink_to(os.devnull)
    save(kind, link)
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    assert link.is_symlink()


def test_a_pipe_gets_what_is_written(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    while True:  # until the reader has opened it
        try:
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            continue
        break
    reader.join()
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    for _ in range(100_000):
        try:
            save("head", pipe)
        except DataError:
            continue
        break
    reader.join()
    assert got[-1] == HEAD.save(tmp_path / "file").read_bytes()
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_written_is_left_alone(tmp_path, kind):
    pipe, box = tmp_path / "pipe", tmp_path / "box"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="pipe: cannot be written, it is a pipe that nothing reads"):
        save(kind, pipe)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(box))
        with pytest.raises(DataError, match="box: cannot be written, it is a socket; name a regular file"):
            save(kind, box)
    with pytest.raises(DataError, match="is a folder; name a file"):
        save(kind, tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(DataError, match=r"loop: cannot be written \(Too many levels"):
        save(kind, tmp_path / "loop")
    with pytest.raises(DataError, match="cannot be written"):
        save(kind, tmp_path / "pipe" / "x")
    assert names(tmp_path) == ["box", "loop", "pipe"]


def test_extraction_writes_to_regular_files_only(tmp_path):
    from torch import nn

    from ltpost.extract import extract_features

    np.savez(tmp_path / "val.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=np.arange(2))
    os.mkfifo(tmp_path / "val.h5")
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    with pytest.raises(DataError, match="it is a pipe; name a regular file"):
        extract_features(model, tmp_path, "val", tmp_path / "val.h5")
    assert names(tmp_path) == ["val.h5", "val.npz"]  # it is refused before a row is computed


def limited(size, kind, path):
    """Save in a child process that may write files of ``size`` bytes; its exit code and what it said."""
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[4])\n"
        "from test_output import save, DataError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)\n"
        "try:\n    save(sys.argv[2], sys.argv[3])\n"
        "except DataError as error:\n    sys.exit(f'said: {error}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(size), kind, str(path), str(Path(__file__).parent)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_no_room_is_one_sentence_and_the_earlier_file_stays(tmp_path, kind):
    path = tmp_path / "x"
    size = len(save(kind, path).read_bytes())
    before = path.read_bytes()
    for room in {0, 1, size // 3, size - 1}:
        code, said = limited(room, kind, path)
        assert (code, said.strip()) == (
            1, f"said: {path}: cannot be written (File too large); choose another place"
        ), room  # fmt: skip
        assert path.read_bytes() == before
        assert names(tmp_path) == ["x"]
    assert limited(size + 2**14, kind, path) == (0, "")


def test_no_room_to_finish_keeps_the_rows(tmp_path):
    """The change that marks a file complete needs room; without it the rows stay, and finishing works later."""
    path = tmp_path / "val.h5"
    partial = write.partial_name(path)
    write.create_file(partial, np.zeros(3, int), {"features": ((3, 2), np.float32)})
    with h5py.File(partial, "r+") as file:
        file["features"][:] = 1
    before, limits = partial.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write.finish_file(partial, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert partial.read_bytes()[: len(before)] == before
    write.finish_file(partial, path)
    np.testing.assert_array_equal(load(path).features, 1)
    assert names(tmp_path) == ["val.h5"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("kind", KINDS)
def test_a_read_only_folder_is_one_sentence(tmp_path, kind):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="Permission denied"):
        save(kind, tmp_path / "x")


def _write_often(kind, path, size):
    for _ in range(10):
        if kind == "features":
            make_split("val", size).save(path)
        elif kind == "ending":  # as export and convert write
            with replacing(path, keep_ending=True) as partial:
                LinearHead(np.full((size, 300), float(size))).save(partial)
        else:
            LinearHead(np.full((size, 300), float(size))).save(path)


@pytest.mark.parametrize("kind", ["features", "head", "ending"])
def test_several_processes_write_one_file(tmp_path, kind):
    path = tmp_path / "x.h5"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(kind, path, size)) for size in (2, 50, 300)]
    for writer in writers:
        writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            found = load(path) if kind == "features" else load_head(path)
            assert len(found.labels) in (20, 500, 3000) if kind == "features" else found.num_classes in (2, 50, 300)
            seen += 1
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert seen
    assert names(tmp_path) == ["x.h5"]


@pytest.mark.parametrize("kind", ["plain", "ending"])
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, kind):
    code = (
        "import os, signal, sys\nfrom ltpost.output import replacing\n"
        "with replacing(sys.argv[1], keep_ending=sys.argv[2] == 'ending') as partial:\n"
        "    partial.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.csv"), kind], check=False)
    (tmp_path / "x.csv.mine.partial").touch()
    assert len(names(tmp_path)) == 2
    save("text", tmp_path / "x.csv")
    assert names(tmp_path) == ["x.csv", "x.csv.mine.partial"]


def test_the_temporary_file_of_a_running_process_is_left_alone(tmp_path):
    with replacing(tmp_path / "x") as first:
        first.write_text("first")
        save("text", tmp_path / "x")
        assert first.exists()
    assert (tmp_path / "x").read_text() == "first"
    assert names(tmp_path) == ["x"]


def stopped_at(step: int, path: Path) -> BaseException | None:
    """Write a file and raise KeyboardInterrupt at a step of Python in what writes it; None where it has ended."""
    files = (output.__file__, contextlib.__file__)
    try:
        with interrupted_at(step, lambda code: code.co_filename in files or code.co_name == "save"):
            save("text", path)
    except KeyboardInterrupt as error:
        return error
    return None


def test_a_stop_between_any_two_steps_leaves_no_temporary_file(tmp_path, monkeypatch):
    """Ctrl-C may come where a ``with`` has been entered and Python does not know it yet; then nothing leaves it."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    path, left, step = tmp_path / "x.csv", 0, 1
    while (stop := stopped_at(step, path)) is not None:
        left += len(names(tmp_path)) - path.exists()
        output.remove_temporary_files()
        assert names(tmp_path) in ([], ["x.csv"])
        assert not path.exists() or path.read_text() == "some text"
        path.unlink(missing_ok=True)
        step += 1
    assert stop is None
    assert step > 100
    assert left > 0  # it does happen


def test_rows_that_are_in_use_stay_when_their_file_is_written_anew(tmp_path):
    """Large features are mapped into memory: a file changed in place changes them, a shorter one ends the process."""
    path = make_split("val", 20).save(tmp_path / "val.h5")
    found = load(path)
    assert isinstance(found.features.base, np.memmap)
    before = found.features[:].copy()
    make_split("val", 1).save(path)
    np.testing.assert_array_equal(found.features[:], before)
    assert len(load(path)) < len(found)


def test_long_names(tmp_path):
    path = tmp_path / ("é" * 120 + ".h5")
    make_split("val", 2).save(path)
    assert names(tmp_path) == [path.name]
