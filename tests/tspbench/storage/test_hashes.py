import hashlib
import os

from tspbench.storage.hashes import hash_data, hash_file, hash_videos


def test_a_file_is_hashed_by_its_content(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    assert hash_file(tmp_path / "a") == hashlib.sha256(b"content").hexdigest()


def test_a_changed_file_is_hashed_anew(tmp_path):
    path = tmp_path / "a"
    for content in (b"first", b"again", b"longer than before"):
        before = path.stat().st_mtime_ns if path.exists() else 0
        path.write_bytes(content)
        os.utime(path, ns=(before + 10**9, before + 10**9))
        assert hash_file(path) == hashlib.sha256(content).hexdigest()


def test_data_are_hashed_whatever_the_order_of_keys():
    assert hash_data({"a": 1, "b": [1.5, "x", None]}) == hash_data({"b": [1.5, "x", None], "a": 1})
    hashes = {hash_data(data) for data in ({"a": 1}, {"a": 2}, {"a": "1"}, {"a": [1]}, [["a", 1]], {})}
    assert len(hashes) == 6


def test_videos_are_hashed_by_names_and_sizes(tmp_path):
    for name, size in {"a.mp4": 3, "b.mp4": 4, "c.mp4": 3}.items():
        (tmp_path / name).write_bytes(bytes(size))
    videos = {"a": tmp_path / "a.mp4", "b": tmp_path / "b.mp4"}
    same = {"b": tmp_path / "b.mp4", "a": tmp_path / "a.mp4"}
    assert hash_videos(videos) == hash_videos(same)
    others = [
        {"a": tmp_path / "a.mp4"},
        {"a": tmp_path / "c.mp4", "b": tmp_path / "b.mp4"},
        {"a": tmp_path / "b.mp4", "b": tmp_path / "a.mp4"},
    ]
    assert len({hash_videos(videos), *map(hash_videos, others)}) == 4
    before = hash_videos(videos)
    (tmp_path / "a.mp4").write_bytes(bytes(5))
    assert hash_videos(videos) != before
