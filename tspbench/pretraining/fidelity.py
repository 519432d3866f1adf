"""How much of a video LoFi shows the encoder: snippets in time, pixels in space (Xu et al., NeurIPS 2021)."""

from collections.abc import Iterable
from typing import Any, Final, Literal

from pydantic import Field

from tspbench.config import Settings

SMALLEST_PIXELS: Final = 16


class Fidelity(Settings):
    """How finely a video is seen.

    Args:
        snippets: parts L that it is cut into, a clip in the middle of each: the localizer's steps.
        pixels: side of the square that is cut out of a frame, which is resized in proportion.
    """

    snippets: int = Field(ge=4)
    pixels: int = Field(ge=SMALLEST_PIXELS)


FULL: Final = Fidelity(snippets=100, pixels=224)
S_LOFI: Final = Fidelity(snippets=100, pixels=112)
T_LOFI: Final = Fidelity(snippets=25, pixels=224)
ST_LOFI: Final = Fidelity(snippets=50, pixels=158)
CYCLE: Final = (S_LOFI, ST_LOFI, T_LOFI)  # the order in which they take turns


class EndToEndSettings(Settings):
    """How LoFi trains an encoder through a localizer.

    Args:
        localizer: key of `baselines.LOCALIZERS` that takes whole videos: gtad, bmn.
        config: its own settings, but for ``feature_dim`` and those that a fidelity tells (``steps``, ``max_duration``).
        fidelities: one, or several that take turns; none: the three of the paper, scaled to the encoder.
        cycle: "long": each takes an epoch; "short": each takes ``cycle_batches`` batches.
        cycle_batches: of the short cycle.
        chunk_snippets: snippets that pass through the encoder at a time; none: all of a batch, which takes the memory
            of all.
        memory_gib: memory that a step may take: the finest fidelity and the largest chunk that fit are chosen, whatever
            ``fidelities`` and ``chunk_snippets`` say; none: they are as they say.
    """

    localizer: str = "gtad"
    config: dict[str, Any] = Field(default_factory=dict)
    fidelities: tuple[Fidelity, ...] = Field((), strict=False)
    cycle: Literal["long", "short"] = "long"
    cycle_batches: int = Field(16, ge=1)
    chunk_snippets: int | None = Field(32, ge=1)
    memory_gib: float | None = Field(None, gt=0, allow_inf_nan=False)


def finest_first(crop: int) -> list[Fidelity]:
    """Return the fidelities that a memory budget chooses from, for an encoder that is given ``crop`` pixels.

    First the full one, then the three of the paper, each of which costs a quarter of it, in the order of what they
    reached alone (LoFi, Table 2, average mAP on ActivityNet and HACS: T-LoFi 34.32 and 24.36, ST-LoFi 34.12 and 24.36,
    S-LoFi 34.12 and 24.25); then those that have half and less of S-LoFi's snippets and sides. Sides are in proportion
    to the 224 pixels of the paper's encoder.
    """
    coarser = [
        Fidelity(snippets=snippets, pixels=side) for snippets, side in ((50, 112), (25, 112), (25, 56), (13, 56))
    ]
    return scaled((FULL, T_LOFI, ST_LOFI, S_LOFI, *coarser), crop)


def scaled(fidelities: Iterable[Fidelity], crop: int) -> list[Fidelity]:
    """Return fidelities of the paper's encoder for one that is given ``crop`` pixels, without those of no use to it."""
    sides = [(each.snippets, round(each.pixels * crop / FULL.pixels)) for each in fidelities]
    return [Fidelity(snippets=snippets, pixels=side) for snippets, side in sides if side >= SMALLEST_PIXELS]
