"""Encoders: clips → vectors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from tspbench.config import choose
from tspbench.encoders.own import build_own, hash_weights, own_encoder, own_facts
from tspbench.encoders.r2plus1d_18 import R2Plus1D18
from tspbench.encoders.r2plus1d_34 import R2Plus1D34
from tspbench.encoders.r3d_18 import R3D18
from tspbench.encoders.tiny import Tiny
from tspbench.encoders.tsm import Tsm, own_names
from tspbench.encoders.tsm_18 import Tsm18
from tspbench.encoders.tsm_34 import Tsm34
from tspbench.encoders.tsm_50 import Tsm50
from tspbench.errors import UserError
from tspbench.own_code import allow, is_own, same_class
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


def encoder_class(name: str, where: str = "") -> type[AnyEncoder]:
    """Return the encoder that a name stands for.

    Args:
        name: a key of `ENCODERS`, or a user's own (path/to/file.py:Name, package.module:Name) that `named_encoder` has
            let in.
        where: what a sentence says behind "encoder", such as " in recipe.toml".

    Raises:
        UserError: an unknown name, or an own encoder that nobody has named or that does not fit.
    """
    if is_own(name):
        own: type[AnyEncoder] = own_encoder(name).kind
        return own
    if name.endswith(".py"):
        raise UserError(f"{name!r} names a file, not the encoder in it{where}: give {name}:ClassName.")
    return ENCODERS[choose(f"encoder{where}", name, ENCODERS)]


def named_encoder(name: str, where: str = "") -> type[AnyEncoder]:
    """Return the encoder that the user names, on the command line, in a call or in a recipe that is run.

    One of their own is run because of that, see `tspbench.own_code.allow`, and tried on a clip before any work.

    Raises:
        UserError: as `encoder_class` and `build_own` say.
    """
    if is_own(name):
        allow(name)
        new_encoder(name, seed=0)
    return encoder_class(name, where)


def encoder_facts(name: str) -> dict[str, object]:
    """Return what decides an encoder's features beside its name and weights: nothing of those in `ENCODERS`."""
    return own_facts(name) if is_own(name) else {}


def new_encoder(name: str, seed: int) -> AnyEncoder:
    """Build an encoder by name with random weights that follow from ``seed``, or those that its class loads itself."""
    kind = encoder_class(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if is_own(name):
            own: AnyEncoder = build_own(name)
            return own
        return kind()


def load_encoder(name: str | None, checkpoint: Path | None) -> tuple[AnyEncoder, Weights]:
    """Build an encoder with trained weights.

    Args:
        name: see `encoder_class`; None when the checkpoint says it itself, which never runs code of a user's own.
        checkpoint: a file of ours, a released TSP checkpoint or a plain state dict; None for torchvision's weights, and
            for those that a user's own encoder comes with.

    Returns:
        The encoder in evaluation mode, and the weights as they were read.

    Raises:
        UserError: an unknown name, no weights to be had, or weights of another encoder.
    """
    if name is not None and is_own(name) and checkpoint is None:
        return _with_its_own_weights(name)
    weights = read_weights(checkpoint) if checkpoint else _published_weights(name)
    if name is None and weights.encoder is not None and is_own(weights.encoder):
        raise UserError(
            f"{checkpoint} holds weights of {weights.encoder}, somebody's own code, which is not run because a file "
            "names it: look at that code, and name it yourself with --encoder."
        )
    name = name or weights.encoder
    if name is None:
        raise UserError(f"{checkpoint} does not say which encoder it holds: name it with --encoder.")
    encoder = new_encoder(name, seed=0)
    if weights.encoder not in (None, name) and not same_class(name, str(weights.encoder)):
        raise UserError(f"{checkpoint} holds weights of {weights.encoder}, not of {name}: change --encoder.")
    _fill(encoder, weights.features, f"{checkpoint or 'the published weights'}", name)
    return encoder.eval(), weights


def _with_its_own_weights(name: str) -> tuple[AnyEncoder, Weights]:
    encoder = new_encoder(name, seed=0).eval()
    state = encoder.state_dict()
    return encoder, Weights(name, state, {}, {"source": hash_weights(own_encoder(name), state)})


def _published_weights(name: str | None) -> Weights:
    """Return torchvision's weights: as `tspbench fetch` left them, or else through torchvision's cache."""
    if name is None:
        raise UserError("No encoder was named: give --encoder, --checkpoint or both.")
    kind = encoder_class(name)
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
    given = {key: value for key, value in state.items() if key in wanted or not key.startswith("fc.")}
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
