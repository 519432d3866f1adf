"""A user's own localizer: what its class has to have, and one try on made-up features before any work."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from baselines.contract import Proposals
from tspbench.config import choose, validated
from tspbench.errors import UserError
from tspbench.own_code import OwnClass, load_class, own_words

METHODS: Final = ("forward", "targets", "loss", "decode", "suppress")
CONFIG: Final = ("feature_dim", "steps", "max_proposals")
TRIED_VIDEOS: Final = 2  # one with a segment, one without

_tried: set[tuple[OwnClass, str]] = set()


def own_localizer(name: str) -> OwnClass:
    """Return the localizer that ``name`` stands for; what it may leave out is filled in.

    That is ``takes_padding`` (no), ``grid`` (any segment) and ``settings``: what is said of its training by keys of
    `tspbench.stages.train.LocalizerSettings`, such as ``{"fit": {"epochs": 20}, "time": {"mode": "padded"}}``.

    Args:
        name: path/to/file.py:Name or package.module:Name.

    Raises:
        UserError: it cannot be loaded, see `load_class`, or lacks a part of `baselines.contract.Localizer`.
    """
    own = load_class(name, "localizer")
    kind, problems = own.kind, []
    config = inspect.getattr_static(kind, "Config", None)
    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        problems.append("Config, a pydantic model")
    elif lacking := [field for field in CONFIG if field not in config.model_fields]:
        problems.append(f"Config with {', '.join(lacking)}")
    elif undecided := [f for f, told in config.model_fields.items() if told.is_required() and f != "feature_dim"]:
        problems.append(f"Config with defaults of {', '.join(undecided)}")
    problems += [
        f"the method {method}"
        for method in METHODS
        if not callable(getattr(kind, method, None)) or getattr(kind, method) is nn.Module.forward
    ]
    if problems:
        raise UserError(
            f"{name}: expected {'; '.join(problems)}, as baselines/contract.py says, found none: add what is missing."
        )
    if not isinstance(getattr(kind, "settings", {}), Mapping):
        raise UserError(f'{name}.settings: expected a dictionary such as {{"fit": {{"epochs": 20}}}}: give that.')
    for optional, usual in (("takes_padding", False), ("grid", _no_grid), ("settings", {})):
        if not hasattr(kind, optional):
            setattr(kind, optional, usual)
    return own


def own_config(name: str, values: Mapping[str, object]) -> Any:
    """Return the settings of a user's own localizer; the first time with such settings it is tried.

    Raises:
        UserError: a setting that does not fit, or a localizer that fails or breaks its contract.
    """
    own = own_localizer(name)
    for key in values:  # whether or not its model lets unknown ones pass
        choose(f"key of config of {name}", key, own.kind.Config.model_fields)
    config = validated(own.kind.Config, values, f"localizer {name}")
    tried = own, config.model_dump_json()
    if tried not in _tried:
        with torch.random.fork_rng(devices=[]):
            _try(name, own, config)
        _tried.add(tried)
    return config


def _no_grid(_localizer: object) -> None:
    """Propose any segment."""


def _try(name: str, own: OwnClass, config: Any) -> None:
    """Train one step on two made-up videos, and find segments in them."""

    def does(part: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except (Exception, SystemExit) as error:  # whatever a stranger's code does
            raise UserError(
                f"{name}: {part} fails on {TRIED_VIDEOS} made-up videos of {config.steps} steps "
                f"({own_words(error, own.path)}): mend it."
            ) from error

    def expect(part: str, wanted: str, found: object, *, good: bool) -> None:
        if not good:
            raise UserError(f"{name}: {part}: expected {wanted}, found {f'{found!r}'[:80]}: mend it.")

    torch.manual_seed(0)
    features = torch.randn(TRIED_VIDEOS, config.feature_dim, config.steps)
    mask = torch.ones(TRIED_VIDEOS, config.steps, dtype=torch.bool)
    segments = [torch.tensor([[0.25, 0.75]]) * config.steps, torch.zeros(0, 2)]
    labels = [torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)]
    model = does("__init__", lambda: own.kind(config))
    output = does("forward", lambda: model(features, mask))
    targets = does("targets", lambda: model.targets(segments, labels).to("cpu"))
    losses = does("loss", lambda: model.loss(output, targets, torch.Generator().manual_seed(0)))
    total = losses.get("total") if isinstance(losses, Mapping) else None
    is_loss = isinstance(total, Tensor) and total.shape == () and total.requires_grad and bool(total.isfinite())
    expect("loss", 'a finite scalar "total" that has a gradient', losses, good=is_loss)
    model.eval()
    with torch.no_grad():
        found = does("decode", lambda: model.decode(model(features, mask)))
        expect("decode", f"a list of {TRIED_VIDEOS} Proposals", found, good=_are_proposals(found))
        found = does("suppress", lambda: model.suppress(found))
        expect("suppress", f"a list of {TRIED_VIDEOS} Proposals", found, good=_are_proposals(found))
    most = max(len(proposals) for proposals in found)
    expect("suppress", f"at most {config.max_proposals} proposals a video", most, good=most <= config.max_proposals)


def _are_proposals(found: object) -> bool:
    return (
        isinstance(found, Sequence)
        and len(found) == TRIED_VIDEOS
        and all(isinstance(each, Proposals) and bool(each.scores.isfinite().all()) for each in found)
    )
