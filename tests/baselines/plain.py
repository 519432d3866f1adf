"""BMN and G-TAD written down as their references have them: whole maps, every bin of every cell in memory.

They take the weights of the project's own modules; the sampling matrices are given, so that a test can build them in
another way.
"""

import torch
import torch.nn.functional as F

from baselines.proposal_maps import ProposalScores


def at_segments(model, maps):
    """Cells ``(B, 2, N)`` of maps ``(B, 2, H, W)`` at the segments that the model lists."""
    start, end = model.segments.unbind(dim=1)
    if getattr(model, "variant", None) is not None and model.variant.columns == "ends":
        return maps[:, :, start, end - 1]
    return maps[:, :, end - start - 1, start]


def convolutions_on_map(model, narrow, hidden):
    """``(B, hidden_3d, H, W)`` -> probabilities ``(B, 2, H, W)``."""

    def point(layer, value):
        return F.conv2d(value, layer.weight[:, :, None, None], layer.bias)

    head = model.head
    hidden = F.relu(point(narrow, hidden))
    for layer in head.pointwise:
        hidden = F.relu(point(layer, hidden))
    for layer in head.local:
        hidden = F.relu(F.conv2d(hidden, layer.weight, layer.bias, padding=1))
    return torch.sigmoid(point(head.score, hidden))


def plain_bmn(model, features, mask):
    """Apply BMN; `mask` is ``(T, bins, H, W)``, the reference's sampling mask."""
    steps, bins, height, width = mask.shape
    base = model.base(features)
    boundaries = torch.cat([branch(base) for branch in model.boundaries], dim=1).sigmoid()
    sampled = torch.matmul(model.proposal(base), mask.view(steps, -1))
    weight = model.sampled.weight.permute(1, 2, 0)[:, :, :, None, None]  # (O, C, bins, 1, 1)
    hidden = F.relu(F.conv3d(sampled.view(len(features), -1, bins, height, width), weight, model.sampled.bias))
    maps = convolutions_on_map(model, model.sampled.narrow, hidden.squeeze(2))
    return ProposalScores(at_segments(model, maps), boundaries[:, 0], boundaries[:, 1])


def plain_neighbours(x, count):
    """``(C, T)`` -> ``(C, T, k)``."""
    distances = (x[:, :, None] - x[:, None, :]).square().sum(dim=0)
    return x[:, distances.topk(count, dim=1, largest=False).indices]


def plain_block(block, x, count):
    """A GCNeXt block on ``(C, T)``."""

    def point(layer, value):
        return F.conv2d(value[None], layer.weight.flatten(1)[:, :, None, None], layer.bias)[0]

    t = F.relu(point(block.temporal_in, x[:, :, None])[:, :, 0])
    t = F.relu(F.conv1d(t[None], block.temporal_mid.weight, block.temporal_mid.bias, padding=1, groups=32)[0])
    t = point(block.temporal_out, t[:, :, None])[:, :, 0]
    near = plain_neighbours(x, count)
    s = F.relu(point(block.semantic_in, torch.cat([near, x[:, :, None].expand_as(near)])))
    mid = block.semantic_mid
    s = F.relu(F.conv2d(s[None], mid.weight[:, :, :, None], mid.bias, groups=32)[0])
    return F.relu(x + t + point(block.semantic_out, s).amax(dim=2))


def plain_gtad(model, features, inner, context):
    """Apply G-TAD; `inner` and `context` are matrices ``(D * T * bins, T)``, dense or sparse."""
    steps, longest, count = model.config.steps, model.config.max_duration, model.config.neighbours
    weight, bias = model.align.weight.permute(1, 0, 2).flatten(1), model.align.bias  # (O, bins * C)
    bins, starts, ends = [], [], []
    for video in features:
        base = F.relu(F.conv1d(video[None], model.input.weight, model.input.bias, padding=1, groups=4)[0])
        base = plain_block(model.backbone1, base, count)
        starts.append(torch.sigmoid(model.start_score(plain_block(model.start_block, base, count).T)[:, 0]))
        ends.append(torch.sigmoid(model.end_score(plain_block(model.end_block, base, count).T)[:, 0]))
        x = plain_block(model.backbone2, base, count)
        near = plain_neighbours(x, count).mean(dim=2)
        sampled = [(inner @ x.T).view(longest * steps, -1), (context @ near.T).view(longest * steps, -1)]
        bins.append(torch.cat(sampled, dim=1))
    hidden = F.relu(F.linear(torch.stack(bins), weight, bias))
    maps = convolutions_on_map(model, model.align.narrow, hidden.mT.unflatten(2, (longest, steps)))
    return ProposalScores(at_segments(model, maps), torch.stack(starts), torch.stack(ends))


def plain_candidates(probability, always):
    """The likely boundaries of one video."""
    found = {always}
    for t in range(1, len(probability) - 1):
        peak = probability[t] > probability[t - 1] and probability[t] > probability[t + 1]
        if peak or probability[t] > 0.5 * max(probability):
            found.add(t)
    return found


def assert_equals_the_plain_formulation(model, plain, matrices, videos):
    """Compare outputs and gradients of `model` in float32 with those of `plain` in float64, on random features."""
    for parameter in model.parameters():
        parameter.data *= 1.7  # as initialised, the outputs are almost constant and would hide an error
    features = torch.randn(videos, model.config.feature_dim, model.config.steps) * 2
    output = model(features, torch.ones(videos, model.config.steps, dtype=torch.bool))
    weigh = torch.randn_like(output.iou)
    (output.iou * weigh).sum().add((output.start - output.end).square().sum()).backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]

    model.zero_grad()
    model.double()
    expected = plain(model, features.double(), *matrices)
    (expected.iou * weigh).sum().add((expected.start - expected.end).square().sum()).backward()
    for part in ("iou", "start", "end"):
        torch.testing.assert_close(getattr(output, part).double(), getattr(expected, part), rtol=0, atol=1e-5)
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        size = parameter.grad.abs().max().item()
        torch.testing.assert_close(gradient.double(), parameter.grad, rtol=1e-5, atol=1e-5 * size, msg=name)
