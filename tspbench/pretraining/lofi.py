"""LoFi: the encoder learns through a localizer, on whole videos at low fidelity (Xu et al., NeurIPS 2021)."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from baselines import LOCALIZERS
from tspbench.chunks import in_chunks
from tspbench.config import choose, validated
from tspbench.encoders.contract import Preprocessing
from tspbench.errors import UserError
from tspbench.pretraining.fidelity import CYCLE, EndToEndSettings, Fidelity, scaled


class Lofi(nn.Module):
    """The encoder and a class-agnostic localizer, trained together by the localizer's loss (LoFi, section 3.2).

    Each number of snippets L has a localizer of L steps and segments of every length in them, and all of these are the
    same network: they share their parameters, which do not depend on L, and differ in how they sample time.

    Args:
        encoder: only its weights serve extraction.
        settings: the localizer, the fidelities, and how many snippets pass through the encoder at a time.
    """

    all_heads: ClassVar[tuple[str, ...]] = ()
    wants_background: ClassVar[bool] = False

    def __init__(self, encoder: Any, settings: EndToEndSettings) -> None:
        super().__init__()
        kind: Any = LOCALIZERS[settings.localizer]
        self.encoder = encoder
        self.chunk_snippets = settings.chunk_snippets
        configs = localizer_configs(settings, encoder.feature_dim)
        self.heads = nn.ModuleDict({str(snippets): kind(config) for snippets, config in configs.items()})
        for first, other in pairwise(self.heads.values()):
            _share_parameters(first, other)

    def localizer(self, snippets: int) -> Any:
        """Return the localizer of videos of so many snippets."""
        return self.heads[str(snippets)]

    def forward(self, frames: Tensor) -> Any:
        """Return the localizer's output.

        Args:
            frames: uint8 (B, L, F, H, W, 3), the snippets of B videos, as they were decoded and cut.
        """
        videos, snippets = frames.shape[:2]
        features = in_chunks(SnippetEncoder(self.encoder), (frames.flatten(0, 1),), self.chunk_snippets)
        mask = torch.ones(videos, snippets, dtype=torch.bool, device=frames.device)
        return self.localizer(snippets)(features.unflatten(0, (videos, snippets)).mT, mask)


class SnippetEncoder(nn.Module):
    """An encoder behind its normalization, so that snippets stay bytes until they are encoded."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, frames: Tensor) -> Tensor:
        """Return (N, D) features of uint8 (N, F, H, W, 3), normalized as `Preprocessing.apply` does it."""
        spec: Preprocessing = self.encoder.preprocessing
        mean, std = (torch.tensor(values, device=frames.device) for values in (spec.mean, spec.std))
        clips = (frames / 255).sub_(mean).div_(std).permute(0, 4, 1, 2, 3)
        features: Tensor = self.encoder(clips)
        return features


def localizer_configs(settings: EndToEndSettings, feature_dim: int) -> dict[int, Any]:
    """Return the localizer's own settings for each number of snippets that the fidelities have.

    Raises:
        UserError: no such localizer, one that does not take whole videos as steps, or a setting that does not fit it.
    """
    kind: Any = LOCALIZERS[choose("localizer", settings.localizer, _whole_video_localizers())]
    taken = {"feature_dim", "steps", "max_duration"} & set(settings.config)
    if taken:
        raise UserError(f"end_to_end.config: {', '.join(sorted(taken))} follow from the fidelities: leave them out.")
    # Scaling to an encoder leaves the snippets of the paper's fidelities as they are.
    lengths = sorted({fidelity.snippets for fidelity in settings.fidelities or CYCLE}, reverse=True)
    return {
        length: validated(
            kind.Config,
            {**settings.config, "feature_dim": feature_dim, "steps": length, "max_duration": length},
            f"end_to_end.config of {settings.localizer}",
        )
        for length in lengths
    }


def fidelities_of(settings: EndToEndSettings, spec: Preprocessing) -> tuple[Fidelity, ...]:
    """Return the fidelities of a training: those of the settings, or the paper's, scaled to an encoder.

    The paper's 112, 158 and 224 pixels are a half, 1/sqrt 2 and the whole of what its encoder is given (LoFi, Table 2).
    """
    return settings.fidelities or tuple(scaled(CYCLE, spec.crop))


def resolved(settings: EndToEndSettings, spec: Preprocessing) -> EndToEndSettings:
    """Return settings that name the fidelities of a training, see `fidelities_of`."""
    return settings.model_copy(update={"fidelities": fidelities_of(settings, spec)})


def check_fidelities(settings: EndToEndSettings, encoder: str, spec: Preprocessing) -> None:
    """Refuse fidelities that are finer than what an encoder sees when features are extracted.

    Args:
        settings: with the fidelities.
        encoder: the encoder's name.
        spec: the encoder's preprocessing.

    Raises:
        UserError: a fidelity has more pixels than a clip of the encoder.
    """
    finest = max(fidelity.pixels for fidelity in fidelities_of(settings, spec))
    if settings.memory_gib is None and finest > spec.crop:
        raise UserError(
            f"end_to_end.fidelities: expected at most the {spec.crop} pixels at which {encoder} sees videos, found "
            f"{finest}: scale them to the encoder."
        )


def _whole_video_localizers() -> Iterable[str]:
    return [name for name, kind in LOCALIZERS.items() if not kind.takes_padding]


def _share_parameters(source: nn.Module, target: nn.Module) -> None:
    """Let ``target``, a module of the same layers, have the very parameters of ``source``."""
    for name, parameter in source.named_parameters():
        owner, _, own_name = name.rpartition(".")
        setattr(target.get_submodule(owner), own_name, parameter)
