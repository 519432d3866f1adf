"""Pretraining methods: what an encoder is taught."""

from typing import Final

from tspbench.pretraining.lofi import Lofi
from tspbench.pretraining.tac import Tac
from tspbench.pretraining.tsp import Tsp

METHODS: Final[dict[str, type[Tac] | type[Tsp] | type[Lofi]]] = {"tac": Tac, "tsp": Tsp, "lofi": Lofi}
