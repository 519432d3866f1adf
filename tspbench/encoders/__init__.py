"""Encoders: clips → vectors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from tspbench.config import choose
from tspbench.encoders.r2plus1d_18 import R2Plus1D18
from tspbench.encoders.r2plus1d_34 import R2Plus1D34
from tspbench.encoders.r3d_18 import R3D18
from tspbench.encoders.tiny import Tiny
from tspbench.encoders.tsm import Tsm, own_names
from tspbench.encoders.tsm_18 import Tsm18
from tspbench.encoders.tsm_34 import Tsm34
from tspbench.encoders.tsm_50 import Tsm50
from tspbench.errors import UserError
from tspbench.storage.catalog import CATALOG
from tspbench.storage.checkpoints import Weights, read_weights

AnyEncoder = R3D18 | R2Plus1D18 | R2Plus1D34 | Tsm18 | Tsm34 | Tsm50 | Tiny

ENCODERS: Final[dict[str, type[AnyEncoder]]] = {
    "r3d_18": R3D18,
    "r2plus1d_18": R2Plus1D18,
    "r2plus1d_34": R2Plus1D34,
    "tsm_18": Tsm18,
    "tsm_34": Tsm34,
    "tsm_50": Tsm50,
    "tiny": Tiny,
}
# How the commands take a file of weights.
_OPTIONS: Final = "with --checkpoint, --init of `tspbench pretrain`, or --set released.NAME=FILE of a recipe"


def new_encoder(name: str, seed: int) -> AnyEncoder:
    """Build an encoder by name with random weights that follow from ``seed``."""
    kind = ENCODERS[choose("encoder", name, ENCODERS)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind()


def load_encoder(name: str | None, checkpoint: Path | None) -> tuple[AnyEncoder, Weights]:
    """Build an encoder with trained weights.

    Args:
        name: a key of `ENCODERS`; None when the checkpoint says it itself.
        checkpoint: a file of ours, a released TSP checkpoint or a plain state dict; None for torchvision's weights.

    Returns:
        The encoder in evaluation mode, and the weights as they were read.

    Raises:
        UserError: an unknown name, no weights to be had, or weights of another encoder.
    """
    weights = read_weights(checkpoint) if checkpoint else _published_weights(name)
    name = name or weights.encoder
    if name is None:
        raise UserError(f"{checkpoint} does not say which encoder it holds: name it with --encoder.")
    encoder = new_encoder(name, seed=0)
    if weights.encoder not in (None, name):
        raise UserError(f"{checkpoint} holds weights of {weights.encoder}, not of {name}: change --encoder.")
    _fill(encoder, weights.features, f"{checkpoint or 'the published weights'}", name)
    return encoder.eval(), weights


def _published_weights(name: str | None) -> Weights:
    """Return torchvision's weights: as `tspbench fetch` left them, or else through torchvision's cache."""
    if name is None:
        raise UserError("No encoder was named: give --encoder, --checkpoint or both.")
    kind = ENCODERS[choose("encoder", name, ENCODERS)]
    if not kind.torchvision_weights:
        released = ", ".join(
            entry for entry in CATALOG if entry.startswith(f"{name}-") and CATALOG[entry].kind == "weights"
        )
        such = f", or the name of one of {released}" if released else ""
        raise UserError(f"torchvision publishes no weights of {name}: give a file, {_OPTIONS}{such}.")
    from torchvision.models import get_weight  # noqa: PLC0415 - only this branch needs the weight tables

    word, published = next(iter(kind.torchvision_weights.items()))
    weight = get_weight(published)
    fetched = next(entry.path for entry in CATALOG.values() if entry.address == weight.url)
    if fetched.is_file():
        return Weights(encoder=name, features=read_weights(fetched).features, heads={}, card={"source": weight.url})
    try:
        state = weight.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise UserError(
            f"The {word} weights of {name} could not be fetched from {weight.url} ({error}): connect to a network, "
            f"or download that file elsewhere and put it at {fetched}, or give its path, {_OPTIONS}."
        ) from error
    return Weights(encoder=name, features=state, heads={}, card={"source": weight.url})


def _fill(encoder: nn.Module, state: Mapping[str, Tensor], source: str, name: str) -> None:
    """Load ``state`` into ``encoder``; a classifier (``fc``) in it is left out."""
    wanted = encoder.state_dict()
    given = {key: value for key, value in state.items() if not key.startswith("fc.")}
    given = own_names(given) if isinstance(encoder, Tsm) else given
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    unknown = [key for key in given if key not in wanted]
    shapes = [key for key in wanted if key in given and wanted[key].shape != given[key].shape]
    for problem, keys in (("lacks", missing), ("has the unknown", unknown), ("has another shape of", shapes)):
        if keys:
            raise UserError(
                f"{source} does not hold weights of {name}: it {problem} {keys[0]!r} ({len(keys)} such tensors): "
                "choose the --encoder that the file was trained with."
            )
    encoder.load_state_dict(given, strict=False)
