"""ActivityNet Captions: what happens in the videos of ActivityNet, told in sentences (Krishna et al., ICCV 2017)."""

from typing import Final

from tspbench.datasets.activitynet import FEATURE_FILES, VIDEOS
from tspbench.datasets.benchmark import Benchmark, SourceFile, SplitFacts

OFFICIAL: Final = "cs.stanford.edu/people/ranjaykrishna/densevid (captions.zip)"
FETCH: Final = ("activitynet-captions-zip",)

ACTIVITYNET_CAPTIONS: Final = Benchmark(
    name="activitynet-captions",
    title="ActivityNet Captions",
    classes=0,
    protocol="activitynet",
    # Counted in the captions that BMT released (data/): the whole files, not those of videos that were still there.
    # The seconds are those of ActivityNet's videos, which are the same but for a few.
    splits={
        "training": SplitFacts("training", 10_009, 1_175_132),
        "validation": SplitFacts("validation", 4_917, 581_972),
    },
    annotations=None,
    captions={"training": ("train.json",), "validation": ("val_1.json", "val_2.json")},
    videos="../activitynet/videos",
    feature_files=tuple(f"../activitynet/{name}" for name in FEATURE_FILES),
    files=(
        SourceFile("the sentences for training", ("train.json",), OFFICIAL, FETCH),
        SourceFile("the sentences of the first annotator", ("val_1.json",), OFFICIAL, FETCH),
        SourceFile("the sentences of the second annotator", ("val_2.json",), OFFICIAL, FETCH),
        VIDEOS,
    ),
    citation="Krishna, Hata, Ren, Fei-Fei, Niebles: Dense-Captioning Events in Videos. ICCV 2017.",
    known=(
        "37,421 captions for training; 17,505 of 4,917 videos in val_1 and 17,031 of 4,885 in val_2. BMT was trained "
        "and scored on the 91 % of the videos that were still there.",
    ),
)
