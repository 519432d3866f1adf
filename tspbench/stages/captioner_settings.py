"""How a captioner is set up: its network, its words, its training, its proposals and its decoding."""

from typing import Annotated, Any, Final

from pydantic import Field

from baselines import CAPTIONERS, LOCALIZERS
from baselines.bmt_proposals import AUDIO_ANCHORS, AUDIO_KERNELS, VISUAL_ANCHORS, VISUAL_KERNELS, ProposalGenerator
from tspbench.config import Settings, choose, validated
from tspbench.errors import UserError
from tspbench.fit_settings import FitSettings
from tspbench.own_code import is_own

GENERATOR: Final = "generator"
GROUND_TRUTH: Final = "ground-truth"
# Settings that nobody gives → what they follow from.
FROM_DATA: Final = {"feature_dim": "the features", "audio_dim": "--sound", "words": "the training captions"}
GENERATOR_FROM_DATA: Final = {
    "stream_dims": "the features",
    "anchors": "the training captions and generator.anchors",
    "max_proposals": "proposals.count",
}


class TextSettings(Settings):
    """The words that a captioner knows.

    Args:
        min_count: how often a word must stand in the training captions.
        vectors: file of GloVe vectors to start from; none: vectors are learned.
        train_vectors: whether vectors from a file are trained further (BMT: no).
    """

    min_count: int = Field(1, ge=1)
    vectors: str | None = None
    train_vectors: bool = False


class GeneratorSettings(Settings):
    """BMT's proposal generator, which is trained on the encoder of the captioner, frozen.

    Args:
        config: its own settings, but for those that follow from features and captions: stream_dims, anchors and
            max_proposals.
        anchors: lengths of segments, found by k-means on the training captions: how many for each stream.
        fit: training; "best" is the F1 of precision and recall of `ProposalSettings.count` proposals.
    """

    config: dict[str, Any] = Field(default_factory=dict)
    anchors: tuple[Annotated[int, Field(ge=1)], ...] = Field((VISUAL_ANCHORS, AUDIO_ANCHORS), strict=False)
    fit: FitSettings


class ProposalSettings(Settings):
    """Where the segments come from that are described beside those of the ground truth.

    Args:
        source: "generator", or the localizer whose proposals for the same features lie in the same run (a key of
            `LOCALIZERS`, or a user's own).
        count: how many are described of a video, the best ones.
        shortest_seconds: proposals that are not longer are left out.
    """

    source: str = GENERATOR
    count: int = Field(100, ge=1)
    shortest_seconds: float = Field(0.2, ge=0)


class DecodingSettings(Settings):
    """How sentences are written, see `baselines.decoding.decode`; ``batch_size`` segments at once."""

    max_words: int = Field(30, ge=1)
    beam: int = Field(1, ge=1)
    no_repeated_trigram: bool = False
    batch_size: int = Field(256, ge=1)


class CaptionerSettings(Settings):
    """Which captioner is trained on every feature set, and how.

    Args:
        name: key of `baselines.CAPTIONERS`.
        config: its own settings, but for those that follow from features and captions: feature_dim, audio_dim, words.
        text: its words.
        held_out: share of the training videos that nothing is learned from, so that epochs can be chosen by them; 0:
            epochs are chosen by the validation captions, which are those that are scored (BMT).
        fit: training; "best" is the METEOR of the sentences for true segments.
        generator: the proposal generator.
        proposals: what is described beside the true segments.
        decoding: how sentences are written.
    """

    name: str = "bmt"
    config: dict[str, Any] = Field(default_factory=dict)
    text: TextSettings = TextSettings()
    held_out: float = Field(0.1, ge=0, lt=1)
    fit: FitSettings
    generator: GeneratorSettings
    proposals: ProposalSettings = ProposalSettings()
    decoding: DecodingSettings = DecodingSettings()

    @property
    def chooses(self) -> bool:
        """Whether some training chooses among its epochs, and so needs a validation."""
        fits = [self.fit, *([self.generator.fit] if self.proposals.source == GENERATOR else [])]
        return any(fit.select == "best" for fit in fits)


def check_captioner(settings: CaptionerSettings, feature_dim: int, audio_dim: int) -> None:
    """Refuse settings that do not fit, before any work is done.

    Raises:
        UserError: names the setting and what it could be.
    """
    if not is_own(settings.proposals.source):
        choose("source of proposals", settings.proposals.source, [GENERATOR, *LOCALIZERS])
    for name, fit, group in (("fit", settings.fit, "captioner"), ("generator.fit", settings.generator.fit, GENERATOR)):
        if set(fit.learning_rates) != {group}:
            raise UserError(
                f"{name}.learning_rates: expected one rate for {group}, found "
                f"{', '.join(sorted(fit.learning_rates)) or 'none'}: give that one."
            )
    for name, config, follow in (
        ("config", settings.config, FROM_DATA),
        ("generator.config", settings.generator.config, GENERATOR_FROM_DATA),
    ):
        if given := [key for key in follow if key in config]:
            raise UserError(f"{name}.{given[0]} follows from {follow[given[0]]}: leave it out.")
    captioner_config(settings, feature_dim, audio_dim, words=8)
    if settings.proposals.source == GENERATOR:
        dims = (feature_dim, audio_dim) if audio_dim else (feature_dim,)
        if len(settings.generator.anchors) < len(dims):
            raise UserError(
                f"generator.anchors: expected a number of anchors for each of {len(dims)} stream(s), found "
                f"{list(settings.generator.anchors)}: give as many."
            )
        generator_config(settings, [(1.0,)] * len(dims), dims)


def captioner_config(settings: CaptionerSettings, feature_dim: int, audio_dim: int, words: int) -> Any:
    """Return the captioner's own settings, complete.

    Raises:
        UserError: an unknown captioner, or a setting that does not fit it.
    """
    kind = CAPTIONERS[choose("captioner", settings.name, CAPTIONERS)]
    given = {**settings.config, "feature_dim": feature_dim, "audio_dim": audio_dim, "words": words}
    return validated(kind.Config, given, f"captioner {settings.name}")


def generator_config(
    settings: CaptionerSettings, anchors: list[tuple[float, ...]], stream_dims: tuple[int, ...]
) -> Any:
    """Return the proposal generator's own settings, complete.

    Args:
        settings: of the captioner.
        anchors: of each stream.
        stream_dims: channels of each encoded stream.

    Raises:
        UserError: a setting that does not fit.
    """
    given = {"kernels": [VISUAL_KERNELS, AUDIO_KERNELS], **settings.generator.config}
    if isinstance(given["kernels"], list):  # those of the sound are idle where there is none
        given["kernels"] = given["kernels"][: len(stream_dims)]
    given |= {"stream_dims": stream_dims, "anchors": tuple(anchors), "max_proposals": settings.proposals.count}
    return validated(ProposalGenerator.Config, given, "the proposal generator")
