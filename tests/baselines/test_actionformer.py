import json
from pathlib import Path

import numpy as np
import pytest
import torch

from baselines.actionformer import ActionFormer, ActionFormerConfig

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
THUMOS14_I3D = {
    "feature_dim": 2048,
    "steps": 2304,
    "classes": 20,
    "hidden": 512,
    "windows": (19, 19, 19, 19, 19, 19),
    "position_encoding": False,
}


def fill_by_formula(model, parameters):
    """Give the weights the values of shared/golden/README.md; parameters are [number, name, shape]."""
    for parameter, (number, _, shape) in zip(model.parameters(), parameters, strict=True):
        j = np.arange(parameter.numel(), dtype=np.float64)
        scale = 0.1 if len(shape) <= 1 else 1 / np.sqrt(np.prod(shape[1:]))
        values = (scale * np.sin(0.37 * j + number)).astype(np.float32)
        parameter.data.copy_(torch.from_numpy(values).view(parameter.shape))


def golden_case():
    """Return the model and the input of the golden forward pass."""
    listed = GOLDEN / "actionformer_anet_tsp_parameters.json"
    if not listed.is_file():
        pytest.skip(f"no golden numbers of the reference: {listed} is absent")
    model = ActionFormer(ActionFormerConfig(feature_dim=512)).eval()
    fill_by_formula(model, json.loads(listed.read_text()))
    j = np.arange(512 * 192)
    features = torch.from_numpy(np.cos(0.11 * j + 0.003 * (j % 97)).astype(np.float32)).view(1, 512, 192)
    return model, features, torch.arange(192)[None] < 150


@torch.no_grad()
def test_forward_equals_the_reference():
    model, features, mask = golden_case()
    output = model(features, mask)
    with np.load(GOLDEN / "actionformer_anet_tsp_forward.npz") as golden:
        for part, name in (("logits", "cls_logits"), ("offsets", "offsets"), ("mask", "mask")):
            expected = np.concatenate([golden[f"{name}_{level}"] for level in range(6)], axis=2).swapaxes(1, 2)
            np.testing.assert_allclose(
                getattr(output, part).numpy().reshape(expected.shape).astype(float), expected, rtol=0, atol=1e-6
            )


@pytest.mark.parametrize(
    ("settings", "expected"), [({"feature_dim": 512}, 6_943_497), (THUMOS14_I3D, 29_251_612)], ids=["anet", "thumos"]
)
def test_number_of_parameters_is_the_reference_s(settings, expected):
    model = ActionFormer(ActionFormerConfig(**settings))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
