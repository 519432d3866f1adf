"""THUMOS14: 20 sports in long untrimmed videos, trained on its validation videos (Jiang et al., 2014)."""

from typing import Final

from tspbench.datasets.benchmark import Benchmark, SourceFile, SplitFacts

OFFICIAL: Final = "crcv.ucf.edu/THUMOS14/download.html"

THUMOS14: Final = Benchmark(
    name="thumos14",
    title="THUMOS14",
    classes=20,
    protocol="thumos14",
    # Counted in the ground truth that TSP released (data/thumos14/*_tsp_groundtruth.csv).
    splits={
        "training": SplitFacts("validation", 200, 41_776, 3_007, 2_178, (2_617, 2_177), 23_970),
        "validation": SplitFacts("test", 212, 46_164, 3_358, 2_573, (3_018, 2_550), 27_840),
    },
    video_sets=("thumos14-212", "thumos14-211", "thumos14-210"),
    annotations=SourceFile(
        "the annotated actions, a folder of the texts BaseballPitch_val.txt to VolleyballSpiking_test.txt",
        ("annotations.json", "annotation", "annotations"),
        OFFICIAL,
    ),
    files=(
        SourceFile(
            "the 200 validation and 213 test videos with actions, named video_test_0000004.mp4", ("videos",), OFFICIAL
        ),
    ),
    feature_files=("features/{model}-valid_features.h5", "features/{model}-test_features.h5"),
    citation="Jiang, Liu, Roshan Zamir, Toderici, Laptev, Shah, Sukthankar: THUMOS Challenge: Action Recognition with "
    "a Large Number of Classes. 2014.",
    known=(
        "213 test videos are annotated; in video_test_0001292 everything is Ambiguous. The actions of "
        "video_test_0000270 lie beyond its end (OpenTAD leaves it out), and G-TAD leaves video_test_0001496 out, too.",
        "Training is on the validation videos: the training videos of the challenge are trimmed.",
    ),
)
