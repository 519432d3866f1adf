"""What can be fetched by name: weights, features and annotations, with address, size, licence and checksum.

Names follow one scheme. Checkpoints have the names of TSP's list of released models; released feature files have their
own file names without the ending, which start with the name of the checkpoint that made them; other weights are called
ENCODER-DATA, and other files DATASET-WHAT. Files lie below `data_root` as their entries say, whether `tspbench fetch`
brought them or a person.

Only what was read somewhere stands here: an unknown size or checksum is None, an unknown licence "not stated".
"""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tspbench.errors import UserError

DATA_VARIABLE: Final = "TSPBENCH_DATA"
NOT_STATED: Final = "not stated"


def data_root() -> Path:
    """Return the folder of everything that is fetched: $TSPBENCH_DATA, else ``data`` in the working directory."""
    return Path(os.environ.get(DATA_VARIABLE) or "data").expanduser()


@dataclass(frozen=True)
class Entry:
    """A file (or, of those by hand, a folder) that has a name.

    Attributes:
        name: what the user types.
        kind: "weights", "features" (of clips), "global features" (one vector per video), "annotations",
            "class scores" or "proposals".
        file: its name on disk.
        folder: where it lies, relative to `data_root`.
        address: https URL; None where there is no direct one.
        bytes: its size; None where it is unknown.
        sha256: its SHA-256 in hexadecimal digits, or the first of them; None where it is unknown.
        licence: "not stated" where it is unknown.
        source: where these facts were read.
        by_hand: without an address, how to come by it: a clause for messages.
    """

    name: str
    kind: str
    file: str
    folder: str
    address: str | None
    bytes: int | None
    sha256: str | None
    licence: str
    source: str
    by_hand: str = ""

    @property
    def path(self) -> Path:
        """Where the file lies, or is to lie."""
        return data_root() / self.folder / self.file


_TSP: Final = "https://github.com/HumamAlwassel/TSP"
_CAPTIONS_ZIP: Final = "activitynet-captions-zip"


def _hashed_weights(name: str, file: str, below: str, licence: str, source: str) -> Entry:
    """Return weights in whose file name the last 8 characters before ".pth" start the SHA-256 (torch.hub's rule)."""
    digits = file.removesuffix(".pth")[-8:]
    return Entry(name, "weights", file, "weights", f"{below}/{file}", None, digits, licence, source)


def _checkpoint(name: str, file: str) -> Entry:
    source = "MODEL_URLS in extract_features/extract_features.py of HumamAlwassel/TSP"
    return _hashed_weights(name, file, f"{_TSP}/releases/download/model_weights", NOT_STATED, source)


def _torchvision(name: str, file: str) -> Entry:
    licence = "not stated for the weights (torchvision's code: BSD-3-Clause)"
    source = f"torchvision.models, {'IMAGENET1K_V1' if name.endswith('-imagenet') else 'video, KINETICS400_V1'}"
    return _hashed_weights(name, file, "https://download.pytorch.org/models", licence, source)


def _features(name: str, release: str, dataset: str) -> Entry:
    file, source = f"{name}.h5", "README.md of HumamAlwassel/TSP"
    address = f"{_TSP}/releases/download/{release}/{file}"
    return Entry(name, "features", file, f"{dataset}/features", address, None, None, NOT_STATED, source)


def _activitynet_gvf(name: str, file: str) -> Entry:
    place = f"data/activitynet/global_video_features/{file}"
    source = "train/README.md of HumamAlwassel/TSP, which names the place in the repository but no address"
    by_hand = f"clone {_TSP} and copy {place}"
    return Entry(
        name, "global features", file, "activitynet/features", None, None, None, NOT_STATED, source, by_hand=by_hand
    )


def _proposals(subset: str, stage: str) -> Entry:
    by_hand = (
        "run `tspbench evaluate --task proposals --localizer bmn --dataset thumos14 --features tsp=VALID.h5,TEST.h5 "
        f"--set predict_training=true --out runs/bmn` and copy runs/bmn/proposals/tsp/{stage}/predictions.json.gz"
    )
    file, source = f"{subset}_proposals.json.gz", "made here; those that P-GCN was published with are BSN's"
    name = f"thumos14-{subset}-proposals"
    return Entry(name, "proposals", file, "thumos14", None, None, None, NOT_STATED, source, by_hand=by_hand)


def _captions(name: str, file: str) -> Entry:
    by_hand = f"run `tspbench fetch {_CAPTIONS_ZIP}` and unzip {file} from captions.zip"
    source = "download.sh of ranjaykrishna/densevid_eval"
    folder = "activitynet-captions"
    return Entry(name, "annotations", file, folder, None, None, None, NOT_STATED, source, by_hand=by_hand)


CATALOG: Final[dict[str, Entry]] = {
    # The 13 released checkpoints of TSP, in the order of its list.
    "r2plus1d_34-tsp_on_activitynet": _checkpoint(
        "r2plus1d_34-tsp_on_activitynet",
        "r2plus1d_34-tsp_on_activitynet-max_gvf-backbone_lr_0.0001-fc_lr_0.002-epoch_5-0d2cf854.pth",
    ),
    "r2plus1d_34-tsp_on_thumos14": _checkpoint(
        "r2plus1d_34-tsp_on_thumos14",
        "r2plus1d_34-tsp_on_thumos14-max_gvf-backbone_lr_0.0001-fc_lr_0.004-epoch_4-e6a30b2f.pth",
    ),
    "r2plus1d_34-tac_on_activitynet": _checkpoint(
        "r2plus1d_34-tac_on_activitynet",
        "r2plus1d_34-tac_on_activitynet-backbone_lr_0.0001-fc_lr_0.002-epoch_5-98ccac94.pth",
    ),
    "r2plus1d_34-tac_on_thumos14": _checkpoint(
        "r2plus1d_34-tac_on_thumos14",
        "r2plus1d_34-tac_on_thumos14-backbone_lr_0.00001-fc_lr_0.002-epoch_3-54b5c8aa.pth",
    ),
    "r2plus1d_34-tac_on_kinetics": _checkpoint(
        "r2plus1d_34-tac_on_kinetics", "r2plus1d_34-tac_on_kinetics-0547130e.pth"
    ),
    "r2plus1d_34-tsp_on_activitynet-avg_gvf": _checkpoint(
        "r2plus1d_34-tsp_on_activitynet-avg_gvf",
        "r2plus1d_34-tsp_on_activitynet-avg_gvf-backbone_lr_0.0001-fc_lr_0.004-epoch_5-8b74eaa2.pth",
    ),
    "r2plus1d_34-tsp_on_activitynet-no_gvf": _checkpoint(
        "r2plus1d_34-tsp_on_activitynet-no_gvf",
        "r2plus1d_34-tsp_on_activitynet-no_gvf-backbone_lr_0.0001-fc_lr_0.004-epoch_5-fb38fdd2.pth",
    ),
    "r2plus1d_18-tsp_on_activitynet": _checkpoint(
        "r2plus1d_18-tsp_on_activitynet",
        "r2plus1d_18-tsp_on_activitynet-max_gvf-backbone_lr_0.0001-fc_lr_0.002-epoch_6-22835b73.pth",
    ),
    "r2plus1d_18-tac_on_activitynet": _checkpoint(
        "r2plus1d_18-tac_on_activitynet",
        "r2plus1d_18-tac_on_activitynet-backbone_lr_0.0001-fc_lr_0.004-epoch_5-9f56941a.pth",
    ),
    "r2plus1d_18-tac_on_kinetics": _checkpoint(
        "r2plus1d_18-tac_on_kinetics", "r2plus1d_18-tac_on_kinetics-76ce975c.pth"
    ),
    "r3d_18-tsp_on_activitynet": _checkpoint(
        "r3d_18-tsp_on_activitynet",
        "r3d_18-tsp_on_activitynet-max_gvf-backbone_lr_0.0001-fc_lr_0.002-epoch_6-85584422.pth",
    ),
    "r3d_18-tac_on_activitynet": _checkpoint(
        "r3d_18-tac_on_activitynet",
        "r3d_18-tac_on_activitynet-backbone_lr_0.001-fc_lr_0.01-epoch_5-31fd6e95.pth",
    ),
    "r3d_18-tac_on_kinetics": _checkpoint("r3d_18-tac_on_kinetics", "r3d_18-tac_on_kinetics-dcd952c6.pth"),
    # Where pretraining starts from.
    "r2plus1d_34-ig65m_kinetics400": _hashed_weights(
        "r2plus1d_34-ig65m_kinetics400",
        "r2plus1d_34_clip8_ft_kinetics_from_ig65m-0aa0550b.pth",
        "https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0",
        "MIT",
        "README.md and LICENSE.md of moabitcoin/ig65m-pytorch",
    ),
    # Sampled as LoFi's snippets are, 8 frames out of 64; of 18 and 34 layers TSM's authors have released none.
    "tsm_50-kinetics400": Entry(
        name="tsm_50-kinetics400",
        kind="weights",
        file="TSM_kinetics_RGB_resnet50_shift8_blockres_avg_segment8_e100_dense.pth",
        folder="weights",
        address="https://file.lzhu.me/projects/tsm/models"
        "/TSM_kinetics_RGB_resnet50_shift8_blockres_avg_segment8_e100_dense.pth",
        bytes=None,
        sha256=None,
        licence="not stated for the weights (the code: MIT)",
        source="README.md and LICENSE of mit-han-lab/temporal-shift-module",
    ),
    "r2plus1d_18-kinetics400": _torchvision("r2plus1d_18-kinetics400", "r2plus1d_18-91a641e6.pth"),
    "r3d_18-kinetics400": _torchvision("r3d_18-kinetics400", "r3d_18-b3b3357e.pth"),
    "tsm_18-imagenet": _torchvision("tsm_18-imagenet", "resnet18-f37072fd.pth"),
    "tsm_34-imagenet": _torchvision("tsm_34-imagenet", "resnet34-b627a593.pth"),
    "tsm_50-imagenet": _torchvision("tsm_50-imagenet", "resnet50-0676ba61.pth"),
    # Features that TSP released: ActivityNet every 16 frames, THUMOS14 every frame, of 15 a second.
    "r2plus1d_34-tsp_on_activitynet-train_features": _features(
        "r2plus1d_34-tsp_on_activitynet-train_features", "activitynet_features", "activitynet"
    ),
    "r2plus1d_34-tsp_on_activitynet-valid_features": _features(
        "r2plus1d_34-tsp_on_activitynet-valid_features", "activitynet_features", "activitynet"
    ),
    "r2plus1d_34-tsp_on_activitynet-test_features": _features(
        "r2plus1d_34-tsp_on_activitynet-test_features", "activitynet_features", "activitynet"
    ),
    "r2plus1d_34-tsp_on_thumos14-valid_features": _features(
        "r2plus1d_34-tsp_on_thumos14-valid_features", "thumos14_features", "thumos14"
    ),
    "r2plus1d_34-tsp_on_thumos14-test_features": _features(
        "r2plus1d_34-tsp_on_thumos14-test_features", "thumos14_features", "thumos14"
    ),
    # Global video features that TSP trained with.
    "activitynet-max_gvf": _activitynet_gvf("activitynet-max_gvf", "r2plus1d_34-max_gvf.h5"),
    "activitynet-avg_gvf": _activitynet_gvf("activitynet-avg_gvf", "r2plus1d_34-avg_gvf.h5"),
    "thumos14-max_gvf": Entry(
        name="thumos14-max_gvf",
        kind="global features",
        file="r2plus1d_34-max_gvf.h5",
        folder="thumos14/features",
        address="https://raw.githubusercontent.com/HumamAlwassel/TSP/8dc2f988c5ff785fc22f4fd8a5c2b2e3809d47cc"
        "/data/thumos14/global_video_features/r2plus1d_34-max_gvf.h5",
        bytes=1_882_219,
        sha256="aefec41d2e3a138bf44ef1ba851643e4f1cc0c95f90791fe71f9cfdc3d1f4f72",
        licence=NOT_STATED,
        source="its path at that commit of HumamAlwassel/TSP; size and checksum of a copy of it",
    ),
    # Annotations. Those of ActivityNet have no unchanging address, so no checksum can be promised.
    "activitynet-annotations": Entry(
        name="activitynet-annotations",
        kind="annotations",
        file="activity_net.v1-3.min.json",
        folder="activitynet",
        address="https://raw.githubusercontent.com/activitynet/ActivityNet/master/Evaluation/data"
        "/activity_net.v1-3.min.json",
        bytes=None,
        sha256=None,
        licence="MIT, as its repository",
        source="Evaluation/README.md of activitynet/ActivityNet; activity-net.org/download.html gives it at "
        "http://ec2-52-25-205-214.us-west-2.compute.amazonaws.com/files/activity_net.v1-3.min.json, not encrypted",
    ),
    _CAPTIONS_ZIP: Entry(
        name=_CAPTIONS_ZIP,
        kind="annotations",
        file="captions.zip",
        folder="activitynet-captions",
        address="https://cs.stanford.edu/people/ranjaykrishna/densevid/captions.zip",
        bytes=None,
        sha256=None,
        licence=NOT_STATED,
        source="download.sh of ranjaykrishna/densevid_eval",
    ),
    "activitynet-captions-train": _captions("activitynet-captions-train", "train.json"),
    "activitynet-captions-val_1": _captions("activitynet-captions-val_1", "val_1.json"),
    "activitynet-captions-val_2": _captions("activitynet-captions-val_2", "val_2.json"),
    "thumos14-annotations": Entry(
        name="thumos14-annotations",
        kind="annotations",
        file="annotations",
        folder="thumos14",
        address=None,
        bytes=None,
        sha256=None,
        licence=NOT_STATED,
        source="http://crcv.ucf.edu/THUMOS14/download.html, as the READMEs of TSP and mmaction2 give it",
        by_hand="download TH14_Temporal_annotations_validation.zip and TH14_Temporal_annotations_test.zip from "
        "http://crcv.ucf.edu/THUMOS14/download.html and unzip their texts",
    ),
    # Proposals for localizers that refine those of others.
    "thumos14-validation-proposals": _proposals("validation", "predict-training"),
    "thumos14-test-proposals": _proposals("test", "predict"),
    # Video-level class scores, which label the proposals of localizers that tell no classes apart.
    "activitynet-class-scores": Entry(
        name="activitynet-class-scores",
        kind="class scores",
        file="cuhk_val_simp_share.json",
        folder="activitynet",
        address=None,
        bytes=None,
        sha256=None,
        licence=NOT_STATED,
        source="gtad_postprocess.py on the branch anet of frostinassiky/gtad: the CUHK classifier of 2017",
        by_hand="clone the branch anet of https://github.com/frostinassiky/gtad and copy data/cuhk_val_simp_share.json",
    ),
    "thumos14-class-scores": Entry(
        name="thumos14-class-scores",
        kind="class scores",
        file="uNet_test.npy",
        folder="thumos14",
        address="https://raw.githubusercontent.com/frostinassiky/gtad/ba68778d976236bc9681aa45b76268ee9b677c1d"
        "/data/uNet_test.npy",
        bytes=None,
        sha256=None,
        licence=NOT_STATED,
        source="its path at that commit of frostinassiky/gtad: UntrimmedNet's scores of the test videos",
    ),
}


def is_known(name: str) -> bool:
    """Tell whether ``name`` is a key of `CATALOG`."""
    return name in CATALOG


def find(name_or_path: str | Path) -> Path:
    """Return the file that a user means: a path that exists, or an entry's by its name or, if telling, its file name.

    Raises:
        UserError: it is neither; or the file is not on disk; or several entries have that file name.
    """
    if Path(name_or_path).exists():
        return Path(name_or_path)
    name = str(name_or_path)
    entries = _called(name)
    if not entries:
        close = difflib.get_close_matches(name, CATALOG, n=1)
        nearest = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(f"{name!r} is neither a path that exists nor a name that can be fetched{nearest}: give one.")
    if len(entries) > 1:
        names = " and of ".join(entry.name for entry in entries)
        raise UserError(f"{name!r} is the file name of {names}: give one of these names.")
    entry = entries[0]
    if entry.path.exists():
        return entry.path
    remedy = f"run `tspbench fetch {entry.name}`" if entry.address else f"{entry.by_hand} there"
    raise UserError(f"{name} is missing, it was expected at {entry.path}: {remedy}.")


def located(name_or_path: str | Path) -> Path:
    """Return the file that a user means as `find` does; what nobody knows is a path, whose reader will say more.

    Raises:
        UserError: it is known and not on disk, or several entries have that file name.
    """
    known = not Path(name_or_path).exists() and _called(str(name_or_path))
    return find(name_or_path) if known else Path(name_or_path)


def _called(name: str) -> list[Entry]:
    if name in CATALOG:
        return [CATALOG[name]]
    # Annotations are called train.json and the like: too little to tell them from a user's own.
    return [entry for entry in CATALOG.values() if entry.file == name and entry.kind != "annotations"]
