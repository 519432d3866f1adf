"""Weights with a card, and released .pth files."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tspbench.errors import UserError
from tspbench.storage.atomic import write_bytes

_FEATURES: Final = "features."
_HEADS: Final = "heads."


@dataclass(frozen=True)
class Weights:
    """Weights as a file holds them.

    Args:
        encoder: name of the encoder, None when the file does not say.
        features: the encoder's tensors by parameter name.
        heads: classification heads by name, each with "weight" and "bias".
        card: what else the file says: method, dataset, labels, seed.
    """

    encoder: str | None
    features: dict[str, Tensor]
    heads: dict[str, dict[str, Tensor]]
    card: dict[str, object]


def write_weights(path: Path, weights: Weights) -> None:
    """Write weights atomically as one safetensors file; the card travels in its header."""
    tensors = {_FEATURES + key: value for key, value in weights.features.items()}
    for head, parts in weights.heads.items():
        tensors |= {f"{_HEADS}{head}.{key}": value for key, value in parts.items()}
    header = {"card": orjson.dumps({**weights.card, "encoder": weights.encoder}, option=orjson.OPT_SORT_KEYS).decode()}
    content = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, header)
    write_bytes(path, content)  # not by safetensors itself, which would leave a file of its own behind when killed


def read_weights(path: Path) -> Weights:
    """Read our safetensors, a released TSP checkpoint or a plain state dict; nothing in it is executed.

    Raises:
        UserError: no such file, not a weight file, or one that only unpickling arbitrary classes could read.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: give the path of a checkpoint.")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pth(path)


def _read_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            card = orjson.loads((file.metadata() or {}).get("card", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, orjson.JSONDecodeError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}): make or copy it again.") from error
    heads: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(_HEADS):
            _, head, part = key.split(".", 2)
            heads.setdefault(head, {})[part] = value
    features = {key.removeprefix(_FEATURES): v for key, v in tensors.items() if not key.startswith(_HEADS)}
    return Weights(card.get("encoder"), features, heads, card)


def _read_pth(path: Path) -> Weights:
    """Read a state dict, plain, as TSM's release has it (``{"state_dict": …}``) or as TSP's.

    That is ``{"model": {"features.…", "fc….…"}, "args": Namespace}``.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle fails with whatever its bytes lead to
        # Torch's own words end in the advice to read the file by executing what is in it.
        kind = type(error).__name__
        raise UserError(f"{path} is not a readable weight file ({kind}): give a state dict of tensors.") from error
    state = content.get("model", content.get("state_dict", content)) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"{path} holds no state dict: expected tensors by name, or the same under 'model' or 'state_dict'."
        )
    arguments = content.get("args")
    backbone = getattr(arguments, "backbone", None)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    released = any(key.startswith(_FEATURES) for key in state)
    features = {key.removeprefix(_FEATURES): v for key, v in state.items() if not released or key.startswith(_FEATURES)}
    # TSP names its heads fc1 (actions) and fc2 (region); a single head is fc (models/model.py).
    heads: dict[str, dict[str, Tensor]] = {}
    for name, head in (("fc1", "action"), ("fc", "action"), ("fc2", "region")):
        if released and f"{name}.weight" in state:
            heads[head] = {part: state[f"{name}.{part}"] for part in ("weight", "bias")}
    return Weights(backbone if isinstance(backbone, str) else None, features, heads, {"source": path.name})
