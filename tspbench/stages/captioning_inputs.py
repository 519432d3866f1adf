"""What the rows of the captioning tables have in common: captions, words, sound, METEOR."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from evaluation.captions import all_videos
from evaluation.meteor import Meteor
from tspbench.datasets import Dataset
from tspbench.errors import UserError
from tspbench.fit_settings import NOT_IN_RESULT
from tspbench.progress import Advance
from tspbench.stages.captioner_settings import GENERATOR, CaptionerSettings, captioner_config, check_captioner
from tspbench.stages.random_features import FEATURES_FILE
from tspbench.stages.score import CAPTIONING
from tspbench.stages.stage import run_stage
from tspbench.storage.atomic import write_json
from tspbench.storage.captions import read_caption_file
from tspbench.storage.features import FeatureFiles
from tspbench.storage.hashes import hash_data, hash_file
from tspbench.storage.json_files import read_json
from tspbench.storage.sound import sound_h5
from tspbench.vocabulary import Vocabulary, build_vocabulary, tokenized

WORDS_FILE: Final = "words.json"
SILENCE_SECONDS: Final = 600.0  # METEOR's patience: a process that has waited for a training may be swapped out


@dataclass(frozen=True)
class Captioning:
    """One task of a table: the same captioner and seed on several feature sets.

    Args:
        dataset: with caption files of "training", one, and of "validation".
        captioner: what is trained on each feature set.
        sound: H5 file or folder of .npy files with audio features, the same for every row; None: the videos are silent.
        seed: of the captioner.
        device: torch device.
        out: folder of the run.
    """

    dataset: Dataset
    captioner: CaptionerSettings
    sound: Path | None
    seed: int
    device: str
    out: Path
    task: str = field(default=CAPTIONING, init=False)
    references: Sequence[str] = field(default=(), init=False)


class CaptionBenchmark:
    """What the rows of the captioning tables have in common, read and checked before any of them is trained.

    Args:
        what: the task.
        files: name of the row → its features.

    Attributes:
        what: the task.
        training: the training captions.
        references: the validation captions, a file each.
        sound: features of the sound, if there is any.
        vocabulary: the words of the training captions.
        tokens: of each training caption, separated by spaces.
        held_out: training videos that nothing is learned from.
        inputs: hashes of the caption files, of the word vectors and of the sound.
        meteor: one METEOR process for all rows.

    Raises:
        UserError: settings or files that do not fit.
    """

    def __init__(self, what: Captioning, files: Mapping[str, FeatureFiles]) -> None:
        self.what = what
        trained = what.dataset.captions("training")
        if len(trained) != 1:
            raise UserError(
                f"{what.dataset.folder / 'dataset.toml'}: expected one file of training captions, found "
                f"{len(trained)}: join them, or leave some out."
            )
        scored = what.dataset.captions("validation")
        if len(set(scored)) < len(scored):
            raise UserError(
                f"{what.dataset.folder / 'dataset.toml'}: expected each file of validation captions once, found one "
                "twice: remove it there."
            )
        self.training = read_caption_file(trained[0])
        self.references = [read_caption_file(path) for path in scored]
        for path, captions in ((file.path, file.captions) for file in (self.training, *self.references)):
            if not len(captions):
                raise UserError(f"{path}: expected captions, found none: give a file that holds some.")
        self.inputs = {f"captions {number}": hash_file(path) for number, path in enumerate((*trained, *scored))}
        if what.captioner.text.vectors is not None:
            self.inputs["word vectors"] = hash_file(Path(what.captioner.text.vectors))
        self.sound = None if what.sound is None else FeatureFiles([self._sound(what.sound)])
        if self.sound is not None:
            self.inputs["sound"] = hash_file(self.sound.paths[0])
        for each in files.values():
            check_captioner(what.captioner, each.feature_dim, 0 if self.sound is None else self.sound.feature_dim)
        self.held_out = self._held_out()
        self.vocabulary, self.tokens = self._words()
        self._advance: Advance | None = None
        self.meteor = Meteor(SILENCE_SECONDS, report=self._report)

    def _held_out(self) -> frozenset[str]:
        """Draw the videos that nothing is learned from, the same for every row."""
        settings, videos = self.what.captioner, all_videos([self.training.captions])
        if not (settings.chooses and settings.held_out):
            return frozenset()
        count = max(1, round(settings.held_out * len(videos)))
        if count >= len(videos):
            raise UserError(
                f"{self.training.path}: held_out = {settings.held_out:g} leaves none of {len(videos)} training "
                'video(s) with captions to learn from: hold out less, or take the last epochs (fit.select="last").'
            )
        drawn = np.random.default_rng([self.what.seed, 41]).permutation(len(videos))[:count]
        return frozenset(videos[number] for number in drawn.tolist())

    def _sound(self, source: Path) -> Path:
        """Return the H5 file of the sound; a folder of .npy files becomes one, once."""
        if not source.is_dir():
            return sound_h5(source, source, ())
        folder = self.what.out / CAPTIONING / "sound"
        videos = all_videos([file.captions for file in (self.training, *self.references)])

        def work(_key: str) -> Mapping[str, object]:
            sound_h5(source, folder / FEATURES_FILE, videos)
            return {}

        inputs = {"sound": hash_data({path.name: hash_file(path) for path in sorted(source.glob("*.npy"))})}
        run_stage("sound", folder, {"videos": hash_data(videos)}, inputs, [FEATURES_FILE], work)
        return folder / FEATURES_FILE

    def _words(self) -> tuple[Vocabulary, list[str]]:
        """Return vocabulary and tokens of the training captions; a finished tokenization is not done again."""
        folder = self.what.out / CAPTIONING / "words"
        captions = self.training.captions

        def work(_key: str) -> Mapping[str, object]:
            tokens = tokenized(captions.sentences)
            learned = [
                text
                for text, video in zip(tokens, captions.video, strict=True)
                if captions.videos[video] not in self.held_out
            ]
            vocabulary = build_vocabulary(learned, self.what.captioner.text.min_count)
            write_json(folder / WORDS_FILE, {"words": vocabulary.words, "tokens": tokens})
            return {"words": len(vocabulary.words), "captions": len(captions), "held_out": sorted(self.held_out)}

        settings = {"min_count": self.what.captioner.text.min_count, "held_out": sorted(self.held_out)}
        run_stage("words", folder, settings, {"captions": self.inputs["captions 0"]}, [WORDS_FILE], work)
        content: Any = read_json(folder / WORDS_FILE, "vocabulary")
        return Vocabulary(tuple(content["words"])), content["tokens"]

    def telling(self, advance: Advance) -> Meteor:
        """Return METEOR, which tells ``advance`` from now on how far it is."""
        self._advance = advance
        return self.meteor

    def _report(self, done: int, total: int) -> None:
        if self._advance is not None:
            self._advance(done, total)

    def sources(self, files: FeatureFiles) -> list[FeatureFiles]:
        """Return the feature sets of a row: the visual one, and the sound where there is any."""
        return [files] if self.sound is None else [files, self.sound]

    def train_settings(self, files: FeatureFiles) -> dict[str, object]:
        """Return all settings that decide what the captioner of a row learns, its own as resolved."""
        how = self.what.captioner
        audio_dim = 0 if self.sound is None else self.sound.feature_dim
        config = captioner_config(how, files.feature_dim, audio_dim, len(self.vocabulary))
        return {
            "captioner": how.name,
            "config": config.model_dump(mode="json"),
            "train_vectors": how.text.train_vectors,
            "min_count": how.text.min_count,
            "held_out": sorted(self.held_out),
            "fit": how.fit.model_dump(mode="json", exclude=NOT_IN_RESULT),
            "chosen_by_sentences": self.decoding_settings() if how.fit.select == "best" else None,
            "seed": self.what.seed,
        }

    def decoding_settings(self) -> dict[str, object]:
        """Return all settings that decide which sentence a captioner writes."""
        return self.what.captioner.decoding.model_dump(mode="json", exclude={"batch_size"})

    def generator_settings(self) -> dict[str, object]:
        """Return all settings that decide what the proposal generator learns, but for those of the captioner."""
        how = self.what.captioner
        chosen_by = how.proposals.model_dump(mode="json") if how.generator.fit.select == "best" else None
        settings = how.generator.model_dump(mode="json", exclude={"fit": NOT_IN_RESULT})
        return {**settings, "chosen_by_proposals": chosen_by, "held_out": sorted(self.held_out), "seed": self.what.seed}

    def proposal_settings(self) -> dict[str, object]:
        """Return all settings that decide what is proposed, but for those of the captioner."""
        generator = self.generator_settings() if self.generates else None
        return {**self.what.captioner.proposals.model_dump(mode="json"), "generator": generator}

    @property
    def generates(self) -> bool:
        """Whether proposals come from a generator of our own."""
        return self.what.captioner.proposals.source == GENERATOR

    @property
    def selection(self) -> str:
        """How epochs are chosen, in a few words."""
        how = self.what.captioner
        best = [
            *(["captioner by METEOR"] if how.fit.select == "best" else []),
            *(["generator by F1"] if self.generates and how.generator.fit.select == "best" else []),
        ]
        if not best:
            return "last epoch"
        videos = f"{len(self.held_out)} training videos held out" if self.held_out else "the scored videos, as BMT does"
        return f"best epoch ({', '.join(best)}) on {videos}"

    @property
    def vectors(self) -> str:
        """Where word vectors come from, in a few words."""
        text = self.what.captioner.text
        if text.vectors is None:
            return "learned"
        return f"{Path(text.vectors).name}, {'trained further' if text.train_vectors else 'frozen'}"

    @property
    def decoding(self) -> str:
        """How sentences are written, in a few words."""
        how = self.what.captioner.decoding
        way = "greedy" if how.beam == 1 else f"beam of {how.beam}"
        return f"{way}, at most {how.max_words} words{', no trigram twice' if how.no_repeated_trigram else ''}"
