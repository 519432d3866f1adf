"""ActivityNet 1.3: 200 classes of daily activities in untrimmed videos (Caba Heilbron et al., CVPR 2015)."""

from typing import Final

from tspbench.datasets.benchmark import Benchmark, SourceFile, SplitFacts

FEATURE_FILES: Final = ("features/{model}-train_features.h5", "features/{model}-valid_features.h5")
VIDEOS: Final = SourceFile(
    "the videos, named v_ID.mp4 or ID.mp4",
    ("videos",),
    "the form for missing videos at activity-net.org/download.html",
)

ACTIVITYNET: Final = Benchmark(
    name="activitynet",
    title="ActivityNet 1.3",
    classes=200,
    protocol="activitynet",
    # Counted in the ground truth that TSP released (data/activitynet/*_tsp_groundtruth.csv).
    splits={
        "training": SplitFacts("training", 10_024, 1_175_132, 15_410, 15_956, (15_231, 15_956), 155_935),
        "validation": SplitFacts("validation", 4_926, 581_972, 7_654, 7_747, (7_558, 7_747), 76_525),
    },
    video_sets=("activitynet-4926", "activitynet-4895", "activitynet-4728"),
    annotations=SourceFile(
        "the annotated actions",
        ("annotations.json", "activity_net.v1-3.min.json", "activity_net.v1-3.json", "anet_anno_action.json"),
        "activity-net.org/download.html",
        ("activitynet-annotations",),
    ),
    files=(VIDEOS,),
    feature_files=FEATURE_FILES,
    citation="Caba Heilbron, Escorcia, Ghanem, Niebles: ActivityNet: A Large-Scale Video Benchmark for Human Activity "
    "Understanding. CVPR 2015.",
    known=(
        "Videos vanish from where they were published: 4,728 of the 4,926 validation videos (and 9,649 of 10,024 for "
        "training) are the convention of BMN, G-TAD and OpenTAD; ETAD leaves out 31 of the 4,926.",
        "Annotations hold duplicates and segments of length zero.",
    ),
)
