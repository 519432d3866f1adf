"""The commands on data as functions: scan, segments, lint, import, features, and what they print."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tspbench.errors import UserError
from tspbench.progress import progress, say

# ruff: noqa: PLC0415 - `--help` must not wait for what the commands need
CLIPS_PER_SEGMENT: Final = 5  # that TSP draws in an epoch
STANDARD_RATE: Final = (
    30.0  # frames a second that TSP's videos have; for the ground truth of videos that nobody scanned
)


def init_data(
    folder: Path, annotations: Path | None, videos: Path | None, name: str | None, protocol: str | None
) -> None:
    """Write the card of a folder and say what is in the set."""
    from tspbench.stages.init_dataset import init_dataset

    card, told = init_dataset(folder, annotations, videos, name, protocol)
    for sentence in told:
        print(sentence)
    print(f"Card: {card}; from now on --dataset {folder} works everywhere.")


def import_data(sources: Sequence[str], out: Path, name: str | None, videos: Path | None, protocol: str | None) -> None:
    """Write a data set folder from annotation files as they are published, and say what is in it."""
    from tspbench.stages.import_annotations import import_annotations

    for sentence in import_annotations(sources, out, name=name, videos=videos, protocol=protocol):
        print(sentence)
    print(f"Data set: {out}; from now on --dataset {out} works everywhere.")


def scan_data(dataset: str, deadline_seconds: float, workers: int | None) -> bool:
    """Write the manifest of a data set's videos, or of a folder of videos; return whether every video can be used."""
    from tspbench.datasets import find_videos
    from tspbench.stages.scan import scan, summary
    from tspbench.storage.manifest import MANIFEST

    videos = _videos_of(dataset)
    with progress("scan") as advance:
        manifest = scan(
            find_videos(videos),
            videos / MANIFEST,
            workers=workers or os.cpu_count() or 1,
            advance=advance,
            deadline_seconds=deadline_seconds,
        )
    for sentence in summary(manifest):
        print(sentence)
    print(f"Manifest: {videos / MANIFEST} ({manifest.digest[:8]}); pretraining and extraction follow it.")
    return not manifest.quarantined


def standardize_data(dataset: str, out: Path, workers: int | None) -> bool:
    """Write the videos again at a constant rate; return whether all of them could be."""
    from tspbench.datasets import find_videos, usable_videos
    from tspbench.stages.standardize import standardize

    videos = _videos_of(dataset)
    every, usable = find_videos(videos), usable_videos(videos)
    with progress("standardize") as advance:
        left_out = standardize(usable, out, workers=workers or os.cpu_count() or 1, advance=advance)
    for reason in left_out.values():
        say(f"Left out: {reason}")
    written = len(usable) - len(left_out)
    quarantined = f"; {len(every) - len(usable)} are quarantined" if len(usable) < len(every) else ""
    print(f"{written} of {len(every)} videos: {out}{quarantined}")
    return written == len(every)


def cut_segments(
    dataset: str,
    out: Path,
    gap_clips: float | None,
    clip_seconds: float,
    lengths: Sequence[Path],
    *,
    as_released: bool,
) -> None:
    """Write the TSP ground truth of every split of a data set."""
    from evaluation.protocols import DETECTION_PROTOCOLS
    from tspbench.datasets.benchmark import shortest_gap_clips
    from tspbench.stages.segments import count_segments, write_ground_truth
    from tspbench.storage.tsp_segments import read_metadata

    opened = _opened(dataset)
    ignored = DETECTION_PROTOCOLS[opened.protocol].ignored_label
    annotations = opened.read()
    metadata = {video: its for path in lengths for video, its in read_metadata(path).items()}
    metadata = metadata or dict(_metadata(opened, annotations))
    gap_clips = shortest_gap_clips(opened.protocol) if gap_clips is None else gap_clips
    print(f"Background lasts at least {gap_clips:g} clips of {clip_seconds:.4g} s.")
    for role in opened.card.splits:
        path, videos = out / f"{role}.csv", annotations.subset(opened.subset(role))
        if unknown := [video.name for video in videos if video.name not in metadata]:
            print(
                f"{role}: left out, for nobody knows how long they are: {len(unknown):,} of {len(videos):,} videos "
                f"(first: {unknown[0]})."
            )
        rows = write_ground_truth(
            path,
            videos,
            metadata,
            gap_clips * clip_seconds,
            ignored_label=ignored,
            as_released=as_released,
        )
        counts = count_segments(rows, clip_seconds, CLIPS_PER_SEGMENT)
        print(
            f"{path}: {counts.videos:,} videos, {counts.actions:,} actions and {counts.background:,} background "
            f"segments; a clip fits into {counts.kept_actions:,} and {counts.kept_background:,} of them, "
            f"{counts.clips_per_epoch:,} clips an epoch."
        )


def lint_data(dataset: str, clip_seconds: float) -> bool:
    """Print what is wrong with a data set; return whether nothing spoils training or scores."""
    from tspbench.stages.lint import kept_report, lint

    opened = _opened(dataset)
    durations: dict[str, float] = {}
    with suppress(UserError):  # what is wrong with the manifest is a finding
        durations = opened.lengths()
    findings = lint(opened, durations, clip_seconds)
    for finding in findings:
        print(f"{finding.severity}: {finding.where}: {finding.sentence}")
    errors = [finding for finding in findings if finding.severity == "error"]
    if opened.card.annotations is not None:
        with suppress(UserError):  # which the findings tell
            for split in kept_report(opened, durations, clip_seconds):
                print(
                    f"{split.role} ({split.subset}): {split.with_file} of {split.videos} annotated videos are there; "
                    f"a clip fits into {split.kept} of {split.actions} actions."
                )
    print(f"Errors: {len(errors)}; other findings: {len(findings) - len(errors)}." if findings else "Nothing to mend.")
    return not errors


def convert(
    source: Sequence[Path],
    out: Path,
    *,
    to: str,
    layout: str | None,
    prefixed: bool | None,
    dataset: str | None,
    row: tuple[int | None, int | None, float | None],
    row_seconds: float | None,
) -> None:
    """Write a feature set in another format."""
    from tspbench.stages.convert_features import Conversion, convert_features

    durations: dict[str, float | None] = {}
    if dataset is not None:
        opened = _opened(dataset)
        durations = {video.name: video.duration_seconds for video in opened.read().videos} | opened.lengths()
    clip_frames, stride_frames, frame_rate = row
    how = Conversion(
        to=_literal(to),
        layout=_literal(layout),
        prefixed=prefixed,
        row_seconds=row_seconds,
        clip_frames=clip_frames,
        stride_frames=stride_frames,
        frame_rate=frame_rate,
    )
    with progress("convert features") as advance:
        told = convert_features(source, out, how, durations, advance)
    for sentence in told:
        say(sentence)
    print(f"Features: {out}")


def fetch_entry(name: str) -> None:
    """Fetch a file of the catalog, or say how to come by it."""
    from tspbench.config import choose
    from tspbench.storage.catalog import CATALOG
    from tspbench.storage.download import fetch

    entry = CATALOG[choose("name to fetch", name, CATALOG)]
    checked = "checksum known" if entry.sha256 else "no checksum is known: nothing but its size is verified"
    say(f"{entry.name}: licence {entry.licence}; source: {entry.source}; {checked}.")
    with progress(f"fetch {name}") as advance:
        path = fetch(entry, advance)
    print(path)


def _literal(value: str | None) -> Any:
    """Return a choice that the command line has checked, for a parameter that names the choices itself."""
    return value


def _opened(dataset: str) -> Any:
    from tspbench.datasets import open_dataset

    with progress(f"generate {dataset} videos") as advance:
        return open_dataset(dataset, report=advance)


def _videos_of(dataset: str) -> Path:
    """Return the folder of the videos of a data set, or a plain folder of videos itself."""
    from tspbench.datasets import CARD

    folder = Path(dataset)
    if folder.is_dir() and not (folder / CARD).is_file():
        return folder
    videos: Path = _opened(dataset).videos
    return videos


def _metadata(opened: Any, annotations: Any) -> Mapping[str, Any]:
    """Return what the ground truth says of each video's file: as scanned, as TSP's own files have it, or as annotated.

    Raises:
        UserError: nobody knows how long a video is, or a file has changed since it was scanned.
    """
    from tspbench.storage.tsp_segments import VideoMetadata, read_segments

    manifest = opened.manifest()
    if manifest is not None:
        opened.video_files()  # a file that has changed since the scan is told
        videos = {name: (video.facts, video.file) for name, video in manifest.videos.items() if video.facts}
        return {
            name: VideoMetadata(Path(file).name, facts.duration_seconds, facts.frame_rate, facts.frames)
            for name, (facts, file) in videos.items()
        }
    paths = [path for role in opened.card.splits if (path := opened.segments(role)) is not None]
    if paths:
        return {row.video: row.file for path in paths for row in read_segments(path)}
    seconds = {video.name: video.duration_seconds for video in annotations.videos if video.duration_seconds}
    if not seconds:
        raise UserError(
            f"{opened.annotations}: expected the lengths of the videos, found none: run `tspbench data scan "
            f"{opened.videos}`, add durations to the annotations, or give --metadata."
        )
    say("Nobody has scanned the videos: lengths are as annotated, file names and 30 frames a second are assumed.")
    return {
        name: VideoMetadata(f"{name}.mp4", length, STANDARD_RATE, round(length * STANDARD_RATE))
        for name, length in seconds.items()
    }
