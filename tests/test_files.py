"""Files are written whole or not at all, by one thread or by many."""

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from refgss.files import atomic_write, replacing


def test_readers_never_see_half_of_what_threads_write_to_one_path(tmp_path):
    path, contents = tmp_path / "f", [bytes([65 + i]) * 300_000 for i in range(4)]
    atomic_write(path, contents[0])

    def write(content):
        for _ in range(15):
            atomic_write(path, content)

    threads = [threading.Thread(target=write, args=(c,)) for c in contents]
    for t in threads:
        t.start()
    while any(t.is_alive() for t in threads):
        assert path.read_bytes() in contents
    for t in threads:
        t.join()
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o777])
def test_a_replaced_file_keeps_its_permissions(tmp_path, mode):
    path = tmp_path / "f"
    path.write_text("old")
    path.chmod(mode)
    atomic_write(path, "new")
    assert path.read_text() == "new" and stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_permissions_that_are_asked_for_by_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "f", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half of it")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_link_keeps_pointing_where_it_points(tmp_path):
    (tmp_path / "to").write_text("old")
    (tmp_path / "link").symlink_to("to")
    atomic_write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "to").read_text() == "new"


def test_every_failure_names_the_file(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for path, number in (
        (tmp_path / "loop", errno.ELOOP),
        (tmp_path, errno.EISDIR),
        (tmp_path / "no" / "f", errno.ENOENT),
        (tmp_path / ("n" * 300), errno.ENAMETOOLONG),
    ):
        with pytest.raises(OSError) as e:
            atomic_write(path, "x")
        assert e.value.errno == number and e.value.filename is not None


def test_a_device_that_is_full_is_named():
    with pytest.raises(OSError) as e:
        atomic_write(Path("/dev/full"), "x")
    assert e.value.errno == errno.ENOSPC and e.value.filename == "/dev/full"
