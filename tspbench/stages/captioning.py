"""Captioning as a task of a table: its two tables, of true segments and of proposals."""

from collections.abc import Collection, Mapping, Set

from tspbench import __version__
from tspbench.caption_sets import CaptionSet
from tspbench.errors import UserError
from tspbench.progress import progress, say
from tspbench.stages.caption_models import PARTS, CaptionModels
from tspbench.stages.caption_rows import CaptionRow
from tspbench.stages.captioner_settings import GROUND_TRUTH
from tspbench.stages.captioning_inputs import CaptionBenchmark, Captioning
from tspbench.stages.proposal_files import localizer_predictions
from tspbench.stages.score import CAPTIONING
from tspbench.stages.stage import features_hash, file_hashes, run_stage
from tspbench.storage.features import FeatureFiles
from tspbench.storage.hashes import hash_data
from tspbench.storage.runs import COMPARISON, Row, TaskTable, slug
from tspbench.storage.sound import check_sound_lengths
from tspbench.video_names import known_name


class PreparedCaptioning:
    """A captioning task whose inputs are read and checked, before any row is trained.

    Args:
        what: the task.
        files: name of the row → its features.
        localizers: those that are trained in the same run before, so that their proposals will be there.
    """

    def __init__(self, what: Captioning, files: Mapping[str, FeatureFiles], localizers: Collection[str]) -> None:
        self.shared = CaptionBenchmark(what, files)
        source = what.captioner.proposals.source
        if not self.shared.generates and source not in localizers:
            for name, each in files.items():
                localizer_predictions(what.out, name, source, file_hashes(each))

    def check(self, name: str, files: FeatureFiles) -> None:
        """Read a feature set once, so that no row is trained while another one has a NaN in its last video.

        Raises:
            UserError: the set has no video to learn from or to describe, or what `FeatureFiles.check` says; or the
                sound is of another length.
        """
        shared = self.shared
        sets = [CaptionSet.of(file, files) for file in (shared.training, *shared.references)]
        for file, each in zip((shared.training, *shared.references), sets, strict=True):
            if not each.segments:
                raise UserError(
                    f"{files.paths[0]} has features of none of the {len(file.captions.videos)} videos of {file.path} "
                    f"(its first entry is {min(files.videos)!r}, the first video {file.captions.videos[0]!r}): give "
                    "the features of this data set."
                )
        for role, some in _roles(sets[0].whole.keys(), shared.held_out).items():
            if not some:
                raise UserError(
                    f"{files.paths[0]}: expected training videos {role}, found features of none of them: extract more "
                    "of the training videos, or take the last epochs (fit.select, generator.fit.select)."
                )
        durations = {whole.video: whole.duration_seconds for each in sets for whole in each.whole.values()}

        def work(_key: str) -> Mapping[str, object]:
            with progress(f"check features · {name}") as advance:
                doubtful = files.check(durations, advance)
            if shared.sound is not None:
                heard = shared.sound.videos
                named = {known_name(video, heard) or video: seconds for video, seconds in durations.items()}
                if not shared.sound.meaning():  # with attributes `check` knows how many rows there have to be
                    check_sound_lengths(shared.sound, named)
                there = {video: seconds for video, seconds in named.items() if video in heard}
                with progress("check sound") as advance:
                    doubtful += shared.sound.check(there, advance)
                if silent := len(named.keys() - heard):
                    doubtful.append(f"{shared.sound.paths[0]}: no sound of {silent} of {len(named)} videos.")
            for sentence in doubtful:
                say(sentence)
            return {"videos": len(durations), "doubtful": doubtful}

        folder = shared.what.out / CAPTIONING / "checked" / slug(name)
        run_stage("check features", folder, {}, {**shared.inputs, **file_hashes(files)}, [], work)

    def tables(self, files: Mapping[str, FeatureFiles]) -> list[TaskTable]:
        """Return two tables: of the sentences for true segments, and of those for proposals."""
        shared, what = self.shared, self.shared.what
        how = what.captioner
        changed = ", ".join(f"{key}={value}" for key, value in how.config.items())
        facts = {
            "captioner": how.name,
            **({"with": changed} if changed else {}),
            **({"sound": what.sound.name} if what.sound is not None else {}),
            "words": f"{len(shared.vocabulary.words)} that occur at least {how.text.min_count} time(s)",
            "word vectors": shared.vectors,
            "training": f"{how.fit.epochs} epochs of {how.fit.optimizer} at {how.fit.learning_rates['captioner']:g}",
            "selection": shared.selection,
            "decoding": shared.decoding,
            "seed": str(what.seed),
        }
        tables = []
        for part, protocol in PARTS.items():
            told = {"dataset": what.dataset.name, "protocol": protocol, **facts}
            if part != GROUND_TRUTH:
                told |= {"proposals": f"the best {how.proposals.count} of {how.proposals.source}"}
            rows = [
                Row(name, f"{CAPTIONING}/{slug(name)}/{part}", self._key(each, part), "", features_hash(each))
                for name, each in files.items()
            ]
            tables.append(TaskTable(CAPTIONING, rows, told, f"{CAPTIONING}/{COMPARISON}-{part}", part))
        return tables

    def _key(self, files: FeatureFiles, part: str) -> str:
        """Return a hash of all that decides the score of a row."""
        proposals = self.shared.proposal_settings() if part != GROUND_TRUTH else None
        settings = [self.shared.train_settings(files), self.shared.decoding_settings(), proposals]
        return hash_data([settings, part, self.shared.inputs, file_hashes(files), __version__])

    def fill(self, table: TaskTable, row: Row, files: FeatureFiles) -> None:
        """Run the stages of a row for one of the tables; those that are finished are skipped."""
        folder = self.shared.what.out / CAPTIONING / slug(row.name)
        stages = CaptionRow(row, CaptionModels(self.shared, row.name, files, folder))
        if table.part == GROUND_TRUTH:
            stages.describe_truth()
        else:
            stages.describe_proposals()

    def close(self) -> None:
        """Stop METEOR."""
        self.shared.meteor.close()


def _roles(shown: Set[str], held_out: Set[str]) -> dict[str, Set[str]]:
    """Return the training videos that are shown, by what they are for."""
    return {"to learn from": shown - held_out, **({"to choose epochs by": shown & held_out} if held_out else {})}
