"""How each localizer and captioner was published for each benchmark: settings and training."""

from typing import Final

from tspbench.config import merged, validated
from tspbench.feature_views import TimeSettings
from tspbench.fit_settings import FitSettings
from tspbench.own_code import is_own
from tspbench.proposal_batches import RefineSettings
from tspbench.stages.captioner_settings import CaptionerSettings, GeneratorSettings
from tspbench.stages.train import LocalizerSettings, localizer_class

THUMOS14: Final = "thumos14"
ACTIVITYNET: Final = "activitynet"
SNIPPET_SECONDS: Final = 5 / 30  # THUMOS14: a snippet every 5 frames at 30 frames a second

_ADAM: Final = FitSettings(
    epochs=10,
    batch_size=16,
    optimizer="adam",
    learning_rates={"localizer": 0.001},
    weight_decay=1e-4,
    milestones=(5,),
    gamma=0.1,
)
_ADAMW: Final = FitSettings(
    epochs=15,
    batch_size=16,
    optimizer="adamw",
    learning_rates={"localizer": 0.001},
    weight_decay=0.05,
    decay="weights",
    warmup_epochs=5,
    schedule="cosine",
    clip_norm=1.0,
    average=0.999,
)


def _changed(fit: FitSettings, rate: float, **changes: object) -> FitSettings:
    return fit.model_copy(update={"learning_rates": {"localizer": rate}, **changes})


# G-TAD's release for ActivityNet, branch anet (gtad_lib/opts.py).
_GTAD_ACTIVITYNET: Final = LocalizerSettings(name="gtad", fit=_changed(_ADAM, 0.004))

# G-TAD's release for THUMOS14, branch master: windows of 256 snippets, half of them shared with the next. With TSP's
# features the paper's authors took ten times this learning rate (TSP, issue 8 of the repository).
_GTAD_THUMOS14: Final = LocalizerSettings(
    name="gtad",
    config={
        "steps": 256,
        "max_duration": 64,
        "inner_bins": 16,
        "context_bins": 16,
        "map_kernel": 3,
        "objective": "thumos",
        "boundary_filter": False,
        "proposals_shorter_than": 60,
        "nms_sigma": 0.46,
        "max_proposals": 200,
    },
    time=TimeSettings(mode="windows", step_seconds=SNIPPET_SECONDS, window_stride=128),
    fit=_changed(_ADAM, 4e-5, batch_size=8, clip_norm=1.0),
)

# The PyTorch BMN (BMN-Boundary-Matching-Network, opts.py and main.py); its scheduler steps before each epoch, so that
# the rate falls one epoch before the seventh.
_BMN_ACTIVITYNET: Final = LocalizerSettings(name="bmn", fit=_changed(_ADAM, 0.001, epochs=9, milestones=(6,)))

# BMN's paper, section 4.1: windows of 128 snippets, half of them shared, segments of up to 64.
_BMN_THUMOS14: Final = LocalizerSettings(
    name="bmn",
    config={"variant": "paper", "steps": 128, "max_duration": 64, "max_proposals": 200},
    time=TimeSettings(mode="windows", step_seconds=SNIPPET_SECONDS, window_stride=64),
    fit=_changed(_ADAM, 0.001, milestones=(7,)),
)

# ActionFormer's release, configs/anet_tsp.yaml: 5 epochs of warm-up and 10 of a cosine.
_ACTIONFORMER_ACTIVITYNET: Final = LocalizerSettings(name="actionformer", fit=_ADAMW)

# ActionFormer's release, configs/thumos_i3d.yaml: whole videos, classes told apart by the localizer itself.
_ACTIONFORMER_THUMOS14: Final = LocalizerSettings(
    name="actionformer",
    config={
        "steps": 2304,
        "classes": 20,
        "hidden": 512,
        "windows": (19,) * 6,
        "position_encoding": False,
        "label_smoothing": 0.0,
        "regression_weight": 1.0,
        "initial_normalizer": 100.0,
        "min_duration": 0.05,
        "nms_sigma": 0.5,
        "max_proposals": 200,
    },
    time=TimeSettings(mode="padded"),
    fit=_changed(_ADAMW, 1e-4, epochs=35, batch_size=2),
)

# P-GCN's release (pgcn_opts.py, data/dataset_cfg.yaml, get_optim_policies of pgcn_models.py): an epoch shows each video
# 20 times; biases learn twice as fast and do not decay; features lie 8 frames apart. There the epoch with the lowest
# loss on the scored videos is taken; here the last.
_PGCN_THUMOS14: Final = LocalizerSettings(
    name="pgcn",
    time=TimeSettings(mode="padded", step_seconds=8 / 30),
    refine=RefineSettings(passes=20),
    fit=FitSettings(
        epochs=70,
        batch_size=32,
        optimizer="sgd",
        learning_rates={"localizer": 0.01, "biases": 0.02},
        weight_decay=5e-4,
        decay="weights",
        milestones=(15, 30, 45),
    ),
)

# The release has no settings for ActivityNet: those for THUMOS14, but a step is a row of the features, and an epoch
# shows each video once, because there are 50 times as many.
_PGCN_ACTIVITYNET: Final = _PGCN_THUMOS14.model_copy(
    update={"time": TimeSettings(mode="padded"), "refine": RefineSettings()}
)

# BMT's release (main.py): 100 epochs, ended by 30 without a better METEOR; its generator is chosen by F1. There epochs
# are chosen by the scored videos themselves (--set held_out=0.0); here by training videos held out. There words have
# frozen GloVe vectors (text.vectors) and are cut by spaCy; here vectors are learned where no file is given, and words
# are cut as METEOR cuts them.
_BMT_FIT: Final = FitSettings(
    epochs=100,
    batch_size=32,
    optimizer="adam",
    learning_rates={"captioner": 5e-5},
    select="best",
    patience=30,
)
BMT: Final = CaptionerSettings(
    name="bmt",
    fit=_BMT_FIT,
    generator=GeneratorSettings(
        fit=_BMT_FIT.model_copy(update={"batch_size": 16, "learning_rates": {"generator": 5e-5}})
    ),
)

CAPTIONERS: Final[dict[str, CaptionerSettings]] = {"bmt": BMT}
"""Captioner → its published settings, for ActivityNet Captions."""

OWN: Final = _ADAM.model_copy(update={"schedule": "cosine", "milestones": ()})
"""How a user's own localizer is trained where nobody says how: ten epochs of Adam, along half a cosine."""

PUBLISHED: Final[dict[str, dict[str, LocalizerSettings]]] = {
    "gtad": {ACTIVITYNET: _GTAD_ACTIVITYNET, THUMOS14: _GTAD_THUMOS14},
    "bmn": {ACTIVITYNET: _BMN_ACTIVITYNET, THUMOS14: _BMN_THUMOS14},
    "actionformer": {ACTIVITYNET: _ACTIONFORMER_ACTIVITYNET, THUMOS14: _ACTIONFORMER_THUMOS14},
    "pgcn": {ACTIVITYNET: _PGCN_ACTIVITYNET, THUMOS14: _PGCN_THUMOS14},
}
"""Localizer → benchmark → its published settings."""


def published(localizer: str, protocol: str) -> LocalizerSettings:
    """Return the published settings for the benchmark of a protocol; for other benchmarks those for ActivityNet.

    Of a user's own localizer they are what its class says in ``settings``, and else `OWN`.
    """
    if is_own(localizer):
        kind = localizer_class(localizer)
        mode = {"mode": "padded" if kind.takes_padding else "rescale"}
        usual = {"name": localizer, "time": mode, "fit": OWN.model_dump(mode="json")}
        return validated(LocalizerSettings, merged(usual, kind.settings), f"{localizer}.settings")
    return PUBLISHED[localizer][THUMOS14 if protocol.startswith(THUMOS14) else ACTIVITYNET]
