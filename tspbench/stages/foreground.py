"""How likely something happens at each moment of a video, as the region head says that TSP trains with an encoder."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from tspbench.errors import UserError
from tspbench.stages.known_encoders import KnownEncoder, KnownEncoders
from tspbench.storage.checkpoints import Weights
from tspbench.storage.features import Rows

FOREGROUND: Final = 0  # output of the region head, see `tspbench.pretraining.contract.ClipLabels`


@dataclass(frozen=True)
class Foreground:
    """A region head, and what it sees beside a clip's feature.

    Args:
        weight: (2, D), or (2, D + G) with a global video feature (GVF).
        bias: (2,).
        initial: the frozen encoder whose features are pooled to the GVF; None: the head sees the clip alone.
        pooling: "max" or "avg".
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    initial: KnownEncoder | None
    pooling: str

    def probabilities(self, rows: Rows, initial_rows: Rows | None) -> NDArray[np.float64]:
        """Return the (T,) probabilities that a video's clips show an action (TSP, models/model.py).

        Args:
            rows: (T, D) features of the clips.
            initial_rows: (S, G) features of the same video by ``initial``, where there is such.
        """
        seen = rows.astype(np.float64)
        if initial_rows is not None:
            pooled = (np.max if self.pooling == "max" else np.mean)(initial_rows, axis=0)
            seen = np.hstack([seen, np.tile(pooled, (len(rows), 1))])
        logits = seen @ self.weight.T.astype(np.float64) + self.bias
        return np.asarray(softmax(logits, axis=1)[:, FOREGROUND], dtype=np.float64)


def foreground_of(
    encoder: KnownEncoder, weights: Weights, feature_dim: int, encoders: KnownEncoders
) -> Foreground | None:
    """Return the region head of an encoder; None where it has none.

    Args:
        encoder: whose head it is.
        weights: of the encoder, with its heads.
        feature_dim: D of the encoder.
        encoders: where the initial encoder is looked for.

    Raises:
        UserError: the head sees a GVF, and nobody says of which encoder, or its weights are not found.
    """
    head = weights.heads.get("region")
    if head is None:
        return None
    weight, bias = head["weight"].numpy(), head["bias"].numpy()
    if weight.shape[1] == feature_dim:
        return Foreground(weight, bias, None, "")
    record = encoder.pretraining
    if record is None:
        raise UserError(
            f"{encoder.path}: its region head sees a global video feature, and no record of its pretraining lies "
            "beside it that says of which encoder: give the file as `tspbench pretrain` left it."
        )
    # The initial encoder is of the same kind: its weights are where the pretraining began.
    purpose = f"the pretraining of {encoder.path} started from"
    initial = encoders.find(encoder.kind, record.inputs["initial encoder"], purpose)
    return Foreground(weight, bias, initial, str(record.settings["gvf"]))
