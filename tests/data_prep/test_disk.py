import pytest

from captioner.errors import InputError
from data_prep import disk


def test_one_process_at_a_time(tmp_path):
    folder = tmp_path / "new"
    with disk.lock(folder):
        with pytest.raises(InputError, match="another process"), disk.lock(folder):
            pass
    with disk.lock(folder):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: File exists"), disk.lock(tmp_path / "file"):
        pass


def test_room_is_told_in_figures(tmp_path):
    disk.require_space(tmp_path, 1, "this")
    with pytest.raises(InputError, match=r"this needs 1,000,000,000,000\.0 MB, but .* MB are free"):
        disk.require_space(tmp_path, 10**18, "this")
