import os
import subprocess
import sys

import pytest

from tests.tspbench.helpers import names, one_sentence
from tspbench.storage.scratch import scratch_folder


def test_a_folder_of_its_own_is_gone_in_any_case(tmp_path):
    (tmp_path / "mine.txt").touch()
    with scratch_folder(tmp_path) as first:
        (first / "a").touch()
        with scratch_folder(tmp_path) as second:
            assert first != second
            assert (first / "a").is_file()
        assert names(tmp_path) == sorted([first.name, "mine.txt"])
    with pytest.raises(ZeroDivisionError), scratch_folder(tmp_path) as third:
        (third / "a").write_text(str(1 / 0))
    assert names(tmp_path) == ["mine.txt"]


def test_what_a_kill_left_is_removed_and_what_another_process_uses_is_not(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tspbench.storage.scratch import scratch_folder\n"
        "with scratch_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'file').touch(); print(folder.name, flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], **pipes) as other:
        theirs = other.stdout.readline().strip()
        with scratch_folder(tmp_path) as folder:
            assert names(tmp_path) == sorted([theirs, folder.name])
        other.kill()
    assert names(tmp_path) == [theirs]
    with scratch_folder(tmp_path) as folder:
        assert names(tmp_path) == [folder.name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    with one_sentence(tmp_path, "cannot be written"), scratch_folder(tmp_path):
        pass
