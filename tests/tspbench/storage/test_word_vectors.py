"""Word vectors from text files."""

import gzip
import tempfile
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from tests.tspbench.helpers import one_sentence
from tspbench.storage.word_vectors import LONGEST_LINE, read_word_vectors

# A word with spaces in it, as in GloVe 840B, and one that comes twice.
GLOVE = """the 0.5 -1 2e-1
. 1 1 1
. . . 4 4 4
at name@domain.com 5 5 5
man 0.25 0 -0.0
man 9 9 9
1\N{NO-BREAK SPACE}1/2 3 2 1
"""


def written(folder, content, name="glove.txt"):
    path = folder / name
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["glove.txt", "glove.txt.gz"])
def test_vectors_of_the_wanted_words(tmp_path, name):
    words = ["man", "dog", "the", ".", "1\N{NO-BREAK SPACE}1/2", "at"]
    vectors, there = read_word_vectors(written(tmp_path, GLOVE, name), words)
    assert (vectors.dtype, there.dtype) == (np.float32, np.bool_)
    assert there.tolist() == [True, False, True, True, True, False]
    expected = [[0.25, 0, 0], [0, 0, 0], [0.5, -1, 0.2], [1, 1, 1], [3, 2, 1], [0, 0, 0]]
    assert_array_equal(vectors, np.array(expected, dtype=np.float32))


@pytest.mark.parametrize("text", [GLOVE.replace("\n", "\r\n"), GLOVE.replace("\n", " \n"), GLOVE.rstrip("\n")])
def test_ends_of_lines_do_not_matter(tmp_path, text):
    vectors, there = read_word_vectors(written(tmp_path, text), ["man", "the"])
    assert_array_equal(vectors, np.array([[0.25, 0, 0], [0.5, -1, 0.2]], dtype=np.float32))
    assert there.all()


def test_the_counts_of_fasttext_are_no_word(tmp_path):
    vectors, there = read_word_vectors(written(tmp_path, "2 3\n" + GLOVE), ["2", "the"])
    assert_array_equal(vectors, np.array([[0, 0, 0], [0.5, -1, 0.2]], dtype=np.float32))
    assert there.tolist() == [False, True]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (GLOVE + "dog 1 2\n", ["line 8", "3 numbers as in the first line, found 2 numbers, 'dog 1 2';"]),
        (GLOVE + "dog 1 2 3 4\n", ["line 8", "found 4 numbers, 'dog 1 2 3 4';"]),
        (GLOVE + "dog\n", ["line 8", "found 0 numbers, 'dog';"]),
        (GLOVE + "dog 1 nan 2\n", ["line 8", "expected finite numbers behind the word, found '1 nan 2';"]),
        (GLOVE + "dog 1 2 inf\n", ["line 8", "finite numbers"]),
        (GLOVE + "dog 1 2 1e39\n", ["line 8", "finite numbers"]),  # more than float32 holds
        (GLOVE + "dog 1 x 2\n", ["line 8", "finite numbers"]),
        (GLOVE + "dog  1 2\n", ["line 8", "finite numbers"]),
        ("the\t0.5\t1\n", ["line 1", "spaces between, found 'the\\t0.5\\t1';"]),
        ('{"results": {}}', ["line 1", "give a text file of word vectors"]),
        ("2 3\n\n", ["line 2", "found nothing;"]),
        (GLOVE, ["some of 2 words (such as 'dog', 'cat'), found none of them;"]),
        ("", ["found none of them;"]),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence(tmp_path, text, parts):
    path = written(tmp_path, text)
    with one_sentence(path, *parts):
        read_word_vectors(path, ["dog", "cat"])


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04" + bytes(range(256)) * 20,
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        b"\x00" * (LONGEST_LINE + 5),
        b"\xff\xfet\x00h\x00e\x00 \x001\x00\n\x00",  # UTF-16
    ],
    ids=["zip", "picture", "zeros", "utf-16"],
)
def test_a_binary_file_is_one_sentence(tmp_path, content):
    path = written(tmp_path, content)
    with one_sentence(path, "line 1", "expected a word and its numbers"):
        read_word_vectors(path, ["the"])


def test_damaged_and_missing_files_are_one_sentence(tmp_path):
    numbers = "".join(f"w{k} {k} {k * k % 97}\n" for k in range(5000))
    whole = gzip.compress(numbers.encode())
    broken = bytearray(whole)
    broken[len(whole) // 2 : len(whole) // 2 + 50] = bytes(50)
    for content in (whole[:-9], whole[: len(whole) // 2], whole[:5], bytes(broken)):
        path = written(tmp_path, content)
        with one_sentence(path, "expected whole gzip data, found it cut off or damaged"):
            read_word_vectors(path, ["w1"])
    with one_sentence(tmp_path / "none.txt", "does not exist"):
        read_word_vectors(tmp_path / "none.txt", ["w1"])
    with one_sentence(tmp_path, "cannot be read"):
        read_word_vectors(tmp_path, ["w1"])


@contextmanager
def little_memory():
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * LONGEST_LINE


def test_the_file_is_not_held(tmp_path):
    with (tmp_path / "glove.txt").open("w") as file:
        file.writelines(f"w{k} {' '.join(['0.12345'] * 50)}\n" for k in range(20_000))  # 8 MB
    with little_memory():
        vectors, _ = read_word_vectors(tmp_path / "glove.txt", ["w5", "w19999"])
    assert vectors.shape == (2, 50)


def test_a_file_without_lines_is_not_held(tmp_path):
    path = written(tmp_path, bytes(20 * LONGEST_LINE))
    with little_memory(), one_sentence("line 1"):
        read_word_vectors(path, ["w5"])


words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=5)
numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4).flatmap(lambda width: st.dictionaries(words, st.lists(numbers, min_size=width, max_size=width))),
    st.data(),
)
def test_what_was_written_comes_back(content, data):
    content.pop("?", None)  # the word of the first line
    wanted = data.draw(st.lists(st.sampled_from([*content, "no word"]), unique=True))
    with tempfile.TemporaryDirectory() as folder:
        lines = ["? " + " ".join(["0"] * max(map(len, content.values()), default=1))]
        lines += [f"{word} {' '.join(map(repr, vector))}" for word, vector in content.items()]
        path = written(Path(folder), "".join(f"{line}\n" for line in lines))
        if not set(wanted) & set(content):
            with one_sentence("found none of them"):
                read_word_vectors(path, wanted)
            return
        vectors, there = read_word_vectors(path, wanted)
    assert there.tolist() == [word in content for word in wanted]
    for word, vector in zip(wanted, vectors, strict=True):
        assert_array_equal(vector, np.array(content.get(word, [0.0] * vectors.shape[1]), dtype=np.float32))
