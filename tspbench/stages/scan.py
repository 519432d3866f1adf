"""Videos → manifest: each opened and decoded in a child with a deadline."""

import os
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

from tspbench.errors import UserError
from tspbench.progress import Advance, say
from tspbench.storage.json_files import read_json
from tspbench.storage.manifest import FORMAT, Journal, Manifest, ScannedVideo, file_stamp, read_manifest, write_manifest
from tspbench.storage.video import Problem, VideoError, silence_decoders
from tspbench.storage.video_check import VideoFacts, check_video
from tspbench.workers import LostError, Pool

Check = Callable[[Path], VideoFacts]
Outcome = VideoFacts | VideoError
Stamp = tuple[str, int, int]  # path relative to the folder, bytes, time in nanoseconds

DEADLINE_SECONDS: Final = 10.0
# These may have been the fault of the machine or the disk: the next scan looks again.
MAY_PASS: Final = frozenset({Problem.TIMEOUT, Problem.CRASHED, Problem.UNREADABLE})
NAMED: Final = 5  # quarantined videos that the summary names


def scan(
    videos: Mapping[str, Path],
    manifest_path: Path,
    *,
    workers: int,
    advance: Advance,
    deadline_seconds: float = DEADLINE_SECONDS,
    check: Check = check_video,
) -> Manifest:
    """Find out which videos can be used, and write that down.

    Each is examined in a process that is killed when it takes too long: a decoder that hangs cannot be stopped in any
    other way, and one that crashes takes its process along. Every result is kept as it comes: after an interruption,
    and when a finished scan is run again, files whose size and time are the same are not examined again.

    Args:
        videos: name → file.
        manifest_path: the file to write; what an unfinished scan has found lies beside it.
        workers: files examined at the same time.
        advance: told how many videos are done.
        deadline_seconds: what a file may take, from when it is opened.
        check: what examines a file; a function of a module, because processes are told its name.

    Raises:
        UserError: the manifest cannot be written, another file is in its place, or a file's name is not UTF-8.
    """
    folder = _folder(videos)
    journal = Journal(manifest_path.with_name(f"{manifest_path.name}.journal"))
    known = _known(manifest_path) | journal.read()
    stamps = {name: _stamp(path, folder) for name, path in videos.items()}
    found = {name: known[name] for name, stamp in stamps.items() if name in known and _still_holds(known[name], stamp)}
    advance(len(found), len(videos))
    left = {name: path for name, path in videos.items() if name not in found}
    with journal, closing(_examined(left, check, workers, deadline_seconds)) as outcomes:
        for name, outcome in outcomes:
            found[name] = _entry(name, stamps[name], outcome, videos[name])
            journal.add(found[name])
            advance(len(found), len(videos))
    manifest = Manifest(folder, dict(sorted(found.items())))
    write_manifest(manifest_path, manifest)
    journal.remove()
    return manifest


def summary(manifest: Manifest) -> list[str]:
    """Say in sentences what a manifest holds, the first quarantined videos with their reasons."""
    readable = [video.facts for video in manifest.videos.values() if video.facts]
    hours = sum(facts.duration_seconds for facts in readable) / 3600
    videos = "video" if len(manifest.videos) == 1 else "videos"
    lines = [f"{len(readable)} of {len(manifest.videos)} {videos} can be used: {hours:.2f} hours."]
    variable = sum(not facts.constant_rate for facts in readable)
    turned = sum(facts.rotation != 0 for facts in readable)
    if variable:
        lines.append(
            f"{variable} of them {'has' if variable == 1 else 'have'} a variable frame rate: clips are cut by time."
        )
    if turned:
        are = "is stored on its" if turned == 1 else "are stored on their"
        lines.append(f"{turned} of them {are} side: frames are turned upright.")
    if manifest.quarantined:
        kinds = Counter(video.problem.value for video in manifest.videos.values() if video.problem)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        are = "is" if len(manifest.quarantined) == 1 else "are"
        lines.append(f"{len(manifest.quarantined)} {are} quarantined: {counts}.")
        lines += [f"{name}: {reason}" for name, reason in list(manifest.quarantined.items())[:NAMED]]
        if len(manifest.quarantined) > NAMED:
            lines.append(f"… and {len(manifest.quarantined) - NAMED} more, each with its reason in the manifest.")
    return lines


def _known(manifest_path: Path) -> dict[str, ScannedVideo]:
    """Return what the last scan found; nothing, said aloud, where its manifest is damaged or was changed by hand.

    Raises:
        UserError: the file is no manifest, but somebody's.
    """
    if not manifest_path.is_file():
        return {}
    try:
        return dict(read_manifest(manifest_path).videos)
    except UserError:
        try:
            content = read_json(manifest_path, "manifest")
        except UserError:  # a manifest that breaks off is no JSON
            content = {"format": FORMAT}
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UserError(
                f"{manifest_path} is not a manifest: move it away, because the scan writes its own there."
            ) from None
    say(f"{manifest_path} is damaged or was changed by hand: it is made anew.")
    return {}


def _folder(videos: Mapping[str, Path]) -> Path:
    """Return the deepest folder that holds all videos."""
    return Path(os.path.commonpath([path.absolute().parent for path in videos.values()])) if videos else Path.cwd()


def _stamp(path: Path, folder: Path) -> Stamp:
    """Return by what a file is known again.

    Raises:
        UserError: its name cannot be written down.
    """
    file = str(path.absolute().relative_to(folder))
    try:
        file.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{folder}: the name of the file {file!r} is not UTF-8: rename it.") from error
    return file, *file_stamp(path)


def _still_holds(known: ScannedVideo, stamp: Stamp) -> bool:
    """Tell whether a file need not be examined again."""
    return (known.file, known.bytes, known.modified_ns) == stamp and known.problem not in MAY_PASS


def _entry(name: str, stamp: Stamp, outcome: Outcome, path: Path) -> ScannedVideo:
    if isinstance(outcome, VideoFacts):
        return ScannedVideo(name, *stamp, facts=outcome)
    # Without the folder: a copy of it has the same manifest.
    return ScannedVideo(name, *stamp, problem=outcome.problem, reason=str(outcome).replace(str(path), stamp[0]))


def _examined(
    videos: Mapping[str, Path], check: Check, workers: int, seconds: float
) -> Generator[tuple[str, Outcome], None, None]:
    """Yield what was found of each video, as it comes."""
    # Once is enough: what a decoder died of is looked at again by the next scan.
    with Pool(partial(_examiner, check), workers, seconds, attempts=1) as pool:
        for name, answer in pool.as_they_come(videos.items(), ahead=workers):
            yield name, _lost(videos[name], answer, seconds) if isinstance(answer, UserError) else answer


def _lost(path: Path, error: UserError, seconds: float) -> VideoError:
    if isinstance(error, VideoError):
        return error
    if isinstance(error, LostError) and error.how:
        return VideoError(f"{path} crashed what decodes it ({error.how}): download it again.", Problem.CRASHED)
    return VideoError(
        f"{path} gave no answer within {seconds:g} s: download it again, or allow more time.", Problem.TIMEOUT
    )


def _examiner(check: Check) -> Callable[[Path], VideoFacts]:
    """Return what examines files in a process of its own."""
    silence_decoders()
    return partial(_outcome, check)


def _outcome(check: Check, path: Path) -> VideoFacts:
    try:
        return check(path)
    except VideoError:
        raise
    except Exception as error:  # whatever it is, it is about this file, and the others go on
        what = f"{type(error).__name__}: {error}"
        raise VideoError(f"{path} crashed what decodes it ({what}): download it again.", Problem.CRASHED) from error
