"""The commands as Python functions with typed results.

What a command prints, its function returns; progress and remarks go to stderr. What the user can mend is raised as a
`UserError`, whose message is one sentence. Names of options are those of the commands; what they share:

- files and folders are paths or texts, and a name of `tspbench list files` stands for that file.
- ``dataset``: a folder with a dataset.toml, or a name of `tspbench list datasets`.
- ``settings``: changed settings, table by table as in a recipe: ``{"fit": {"epochs": 4}}``.
- ``device``: "cpu", "cuda", or "auto": a GPU where there is one.
- ``encoder``, ``localizer``: a name of `tspbench list`, or ``file.py:Class``, whose code then runs.

Pretraining reads videos in processes of its own, which import the calling script: a script has to begin its work below
``if __name__ == "__main__":``.
"""

from tspbench.api.results import page, predict, report, study_features
from tspbench.api.running import Extracted, evaluate, extract, pretrain, run
from tspbench.api.scoring import compare, diagnose, score
from tspbench.doctor import Finding, examine
from tspbench.errors import UserError
from tspbench.report import ResultTable
from tspbench.stages.compare import Comparison
from tspbench.stages.diagnose import DiagnosisReport
from tspbench.stages.score import ScoreReport
from tspbench.stages.study_tables import Study

__all__ = [
    "Comparison",
    "DiagnosisReport",
    "Extracted",
    "Finding",
    "ResultTable",
    "ScoreReport",
    "Study",
    "UserError",
    "compare",
    "diagnose",
    "doctor",
    "evaluate",
    "extract",
    "page",
    "predict",
    "pretrain",
    "report",
    "run",
    "score",
    "study_features",
]


def doctor() -> list[Finding]:
    """Check this machine; what fails comes with the command that mends it.

    Example:
        >>> [finding.remedy for finding in api.doctor() if finding.state == "fail"]
        []
    """
    return list(examine())
