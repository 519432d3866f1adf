"""A user's own encoder: what it has to state, and one try on a clip before any work."""

import hashlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from tspbench.errors import UserError
from tspbench.own_code import OwnClass, load_class, own_words
from tspbench.preprocessing import Preprocessing

TRIED_CLIPS = 2  # more than one, so that a lost dimension of the batch shows

_tried: dict[OwnClass, str] = {}  # what was tried, and the hash of the names and shapes in its state dict


def own_encoder(name: str) -> OwnClass:
    """Return the encoder that ``name`` stands for; what it may leave out is filled in.

    Args:
        name: path/to/file.py:Name or package.module:Name.

    Raises:
        UserError: it cannot be loaded, see `load_class`, or does not state what `tspbench.encoders.contract.Encoder`
            has to.
    """
    own = load_class(name, "encoder")
    stated = inspect.getattr_static(own.kind, "preprocessing", None)
    dimensions = inspect.getattr_static(own.kind, "feature_dim", None)
    problems = []
    if not isinstance(stated, Preprocessing):
        problems.append(
            "preprocessing = Preprocessing(clip_frames=16, frame_rate=15, size=224, mean=…, std=…) of "
            f"tspbench.preprocessing, found {_told(stated)}"
        )
    if not isinstance(dimensions, int) or isinstance(dimensions, bool) or dimensions < 1:
        problems.append(f"feature_dim = the length of a feature vector, found {_told(dimensions)}")
    if own.kind.forward is nn.Module.forward:
        problems.append("forward(self, clips), found nothing")
    if problems:
        raise UserError(f"{name}: expected in the class itself {'; '.join(problems)}: add what is missing.")
    for optional, nothing in (("stem_prefix", ()), ("torchvision_weights", {})):
        if not hasattr(own.kind, optional):
            setattr(own.kind, optional, nothing)
    return own


def build_own(name: str) -> Any:
    """Build a user's own encoder; the first time in a process it is tried on clips of zeros.

    Raises:
        UserError: it cannot be built, fails on a clip, or returns anything but a finite (B, feature_dim).
    """
    own = own_encoder(name)
    try:
        encoder = own.kind()
    except (Exception, SystemExit) as error:  # whatever a stranger's constructor does
        raise UserError(
            f"{name} cannot be built without arguments ({own_words(error, own.path)}): mend its __init__."
        ) from error
    if own not in _tried:
        _try(name, own, encoder)
        _tried[own] = _layout(encoder)  # now that parameters without a shape have one
    return encoder


def check_sides(name: str, encoder: Any, sides: Iterable[int]) -> None:
    """Refuse an encoder that takes clips of its own size alone where LoFi shows it smaller ones.

    Args:
        name: path/to/file.py:Name or package.module:Name.
        encoder: from `build_own`.
        sides: pixels of the clips that it will see.

    Raises:
        UserError: it fails on one of them.
    """
    spec: Preprocessing = encoder.preprocessing
    for side in sorted(set(sides)):
        try:
            with torch.no_grad():
                encoder(torch.zeros(1, 3, spec.clip_frames, side, side))
        except (Exception, SystemExit) as error:  # whatever a stranger's network does
            said = own_words(error, load_class(name, "encoder").path)
            such = f"--set 'end_to_end.fidelities=[{{snippets=25, pixels={spec.crop}}}]'"
            raise UserError(
                f"end_to_end.fidelities: {name} fails on clips of {side} pixels ({said}): let it take any size, or "
                f"name fidelities of its own, such as {such}."
            ) from error


def own_facts(name: str) -> dict[str, object]:
    """Return what a stage's settings say beside the name of a user's own encoder: its source, input and network.

    The network is told by the names and shapes of its weights, since a class may read its size from elsewhere, such as
    an environment variable.
    """
    own = own_encoder(name)
    if own not in _tried:
        with torch.random.fork_rng(devices=[]):
            build_own(name)
    return {
        "encoder_source": own.source,
        "preprocessing": asdict(own.kind.preprocessing),
        "feature_dim": own.kind.feature_dim,
        "network": _tried[own],
    }


def hash_weights(own: OwnClass, state: Mapping[str, Any]) -> str:
    """Return what identifies an encoder with weights of its own: the SHA-256 of its source and its state dict."""
    digest = hashlib.sha256(own.source.encode())
    for key, value in sorted(state.items()):
        if isinstance(value, Tensor):
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _layout(encoder: nn.Module) -> str:
    shapes = {key: tuple(value.shape) for key, value in encoder.state_dict().items() if isinstance(value, Tensor)}
    return hashlib.sha256(str(sorted(shapes.items())).encode()).hexdigest()


def _try(name: str, own: OwnClass, encoder: nn.Module) -> None:
    spec: Preprocessing = own.kind.preprocessing
    clips = torch.zeros(TRIED_CLIPS, 3, spec.clip_frames, spec.crop, spec.crop)
    before = encoder.training
    try:
        with torch.no_grad():  # what a module keeps of it must serve training, too
            features = encoder.eval()(clips)
    except (Exception, SystemExit) as error:  # whatever a stranger's network does
        raise UserError(
            f"{name} fails on clips {tuple(clips.shape)} as its preprocessing says ({own_words(error, own.path)}): "
            "mend its forward or its preprocessing."
        ) from error
    encoder.train(before)
    wanted = (TRIED_CLIPS, own.kind.feature_dim)
    if not isinstance(features, Tensor) or tuple(features.shape) != wanted:
        found = tuple(features.shape) if isinstance(features, Tensor) else f"a {type(features).__name__}"
        raise UserError(
            f"{name}: expected features {wanted} for clips {tuple(clips.shape)}, as its feature_dim says, found "
            f"{found}: mend its forward or its feature_dim."
        )
    if not features.is_floating_point() or not bool(features.isfinite().all()):
        found = "NaN or infinity" if features.is_floating_point() else str(features.dtype)
        raise UserError(f"{name}: expected finite numbers for a clip of zeros, found {found}: mend its forward.")


def _told(value: object) -> str:
    return "nothing" if value is None else f"{value!r}"[:80]
