from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from tests.tspbench.helpers import one_sentence
from tspbench.storage.recipes import read_toml, write_toml

CONTENT = {
    "name": 'a "quoted" name\twith ü\n',
    "number": 3,
    "rate": 1e-5,
    "yes": True,
    "empty": [],
    "list": [1, 2],
    "rows": [{"name": "one", "fit": {"epochs": 2}}, {"name": "two"}],
    "table": {"key": 1.5, "with spaces": "x", "deeper": {"a-b_c": "y", "größe": [0.5]}},
    "after": "tables",
}


def test_what_is_written_is_read(tmp_path):
    write_toml(tmp_path / "c.toml", CONTENT)
    assert read_toml(tmp_path / "c.toml") == CONTENT


VALUES = st.recursive(
    st.one_of(
        st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.text()
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_any_plain_data_come_back(content):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "c.toml"
        write_toml(path, content)
        assert read_toml(path) == content


def test_a_missing_file_is_one_sentence(tmp_path):
    with one_sentence(tmp_path / "c.toml", "does not exist"):
        read_toml(tmp_path / "c.toml")


def test_a_mistake_is_told_with_its_line(tmp_path):
    (tmp_path / "c.toml").write_text('name = "a"\nseed = \n')
    with one_sentence(tmp_path / "c.toml", "line 2"):
        read_toml(tmp_path / "c.toml")


def test_bytes_that_are_no_text_are_one_sentence(tmp_path):
    (tmp_path / "c.toml").write_bytes(b"name = \xff\xfe")
    with one_sentence(tmp_path / "c.toml", "not readable TOML"):
        read_toml(tmp_path / "c.toml")


def test_a_folder_is_one_sentence(tmp_path):
    with one_sentence(tmp_path, "not readable TOML"):
        read_toml(tmp_path)
