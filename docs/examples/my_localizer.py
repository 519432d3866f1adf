"""A small localizer: how likely is each step inside an action? Likely neighbours are grouped to segments.

Example: tspbench evaluate --task tal --dataset synthetic --features mine=F.h5 \
    --localizer docs/examples/my_localizer.py:Actionness --out runs/mine
"""

import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import nn

from baselines.contract import CLASS_AGNOSTIC, Proposals
from baselines.nms import hard_nms
from baselines.proposal_maps import best_of


class Actionness(nn.Module):
    settings = {"fit": {"epochs": 20, "batch_size": 4}}  # how it is trained; --set fit.epochs=10 changes it

    class Config(BaseModel):
        feature_dim: int  # of the features; the others are what --set config.hidden=32 changes
        steps: int = 64
        max_proposals: int = 50
        hidden: int = 64
        thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

    def __init__(self, config):
        super().__init__()
        self.config = config
        first = nn.Conv1d(config.feature_dim, config.hidden, kernel_size=3, padding=1)
        self.layers = nn.Sequential(first, nn.ReLU(), nn.Conv1d(config.hidden, 1, kernel_size=3, padding=1))

    def forward(self, features, mask):
        return self.layers(features).squeeze(1).masked_fill(~mask, -20.0)  # (B, T), of each step a logit

    def targets(self, segments, labels):
        middle = torch.arange(self.config.steps, device=segments[0].device) + 0.5
        return torch.stack([((s[:, :1] <= middle) & (middle < s[:, 1:])).any(dim=0).float() for s in segments])

    def loss(self, output, targets, generator):
        return {"total": F.binary_cross_entropy_with_logits(output, targets)}

    def decode(self, output):
        return self.suppress([self.grouped(values) for values in output.float().sigmoid()])

    def grouped(self, values):
        above = values > values.new_tensor(self.config.thresholds)[:, None]
        changes = F.pad(above.float(), (1, 1)).diff()  # at each threshold, +1 where a run begins and -1 behind its end
        starts, ends = (changes == 1).nonzero()[:, 1], (changes == -1).nonzero()[:, 1]
        sums = F.pad(values.double().cumsum(0), (1, 0))
        scores = (sums[ends] - sums[starts]) / (ends - starts)  # the mean of the run
        return Proposals(torch.stack([starts, ends], 1).float(), scores, torch.full_like(starts, CLASS_AGNOSTIC))

    def suppress(self, candidates):
        return best_of(candidates, lambda s, p: hard_nms(s, p, threshold=0.7, keep=self.config.max_proposals))
