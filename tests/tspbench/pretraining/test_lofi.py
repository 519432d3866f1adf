import copy

import pytest
import torch
from pydantic import ValidationError

from tests.tspbench.helpers import one_sentence
from tests.tspbench.pretraining.settled import normalizations, settled_encoder
from tspbench.encoders import ENCODERS, new_encoder
from tspbench.fit_settings import FitSettings
from tspbench.pretraining.fidelity import FULL, S_LOFI, ST_LOFI, T_LOFI, EndToEndSettings, Fidelity, finest_first
from tspbench.pretraining.lofi import Lofi, SnippetEncoder, check_fidelities, fidelities_of, localizer_configs, resolved
from tspbench.pretraining.memory import SPARE, training_memory

SMALL = {
    "gtad": {"hidden_1d": 32, "hidden_2d": 8, "hidden_3d": 16, "inner_bins": 4, "context_bins": 2},
    "bmn": {"hidden_1d": 32, "hidden_2d": 8, "hidden_3d": 16},
}
SEGMENTS = [torch.tensor([[0.5, 3.0], [4.0, 5.5]]), torch.tensor([[1.0, 5.0]])]


def settings_of(localizer="gtad", fidelities=((6, 16),), chunk=None, **changes):
    """Small localizers for small videos; channels of G-TAD's blocks have to divide by 32."""
    told = tuple(Fidelity(snippets=snippets, pixels=pixels) for snippets, pixels in fidelities)
    values = {"localizer": localizer, "config": SMALL[localizer], "fidelities": told, "chunk_snippets": chunk}
    return EndToEndSettings(**{**values, **changes})


def build(settings, encoder="tiny"):
    torch.manual_seed(0)
    model = Lofi(settled_encoder(encoder), settings).train()
    for layer in normalizations(model.encoder):
        layer.eval()
    return model


def snippets(encoder, snippets=6, pixels=16, videos=2):
    frames = ENCODERS[encoder].preprocessing.clip_frames
    shape = (videos, snippets, frames, pixels, pixels, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def gradients(model, frames, segments=SEGMENTS):
    model.zero_grad()
    localizer = model.localizer(frames.shape[1])
    targets = localizer.targets(segments, [])
    losses = localizer.loss(model(frames), targets, torch.Generator().manual_seed(0))
    losses["total"].backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("localizer", ["gtad", "bmn"])
@pytest.mark.parametrize("encoder", ["tiny", "r2plus1d_18", "tsm_18"])
def test_chunks_have_the_gradients_of_the_plain_formulation(encoder, localizer):
    plain = build(settings_of(localizer), encoder)
    chunked = build(settings_of(localizer, chunk=5), encoder)
    frames = snippets(encoder)
    expected, found = gradients(plain, frames), gradients(chunked, frames)
    assert expected.keys() == found.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        assert float((found[name] - value).abs().max()) <= 1e-4 * largest, name
    first = next(name for name, value in plain.named_parameters() if value.dim() > 3)
    assert first.startswith("encoder.")
    assert first.removeprefix("encoder.").startswith(plain.encoder.stem_prefix)
    own = float(expected[first].abs().max())
    assert own > 0
    assert float((found[first] - expected[first]).abs().max()) <= 1e-4 * own


def test_every_parameter_learns():
    found = gradients(build(settings_of(chunk=4)), snippets("tiny"))
    assert all(torch.isfinite(value).all() and value.abs().max() > 0 for value in found.values())


def test_running_statistics_see_each_chunk_once():
    model = build(settings_of(chunk=5))
    for layer in normalizations(model.encoder):
        layer.train()
    gradients(model, snippets("tiny"))
    assert {int(layer.num_batches_tracked) for layer in normalizations(model.encoder)} == {3}  # 12 snippets: 5, 5 and 2
    by_hand = SnippetEncoder(settled_encoder("tiny")).train()
    with torch.no_grad():
        for chunk in snippets("tiny").flatten(0, 1).split(5):
            by_hand(chunk)
    for layer, expected in zip(normalizations(model.encoder), normalizations(by_hand), strict=True):
        assert torch.equal(layer.running_mean, expected.running_mean)
        assert torch.equal(layer.running_var, expected.running_var)


def test_localizers_of_all_lengths_are_one_network():
    model = build(settings_of(fidelities=((6, 16), (4, 24), (6, 24))))
    assert list(model.heads) == ["6", "4"]
    first, second = (dict(model.localizer(length).named_parameters()) for length in (6, 4))
    assert first.keys() == second.keys()
    assert all(first[name] is second[name] for name in first)
    alone = build(settings_of(fidelities=((6, 16),)))
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in alone.named_parameters()]
    # What depends on the length is not shared.
    assert model.localizer(6).config.max_duration == model.localizer(6).config.steps == 6
    assert model.localizer(4).config.max_duration == model.localizer(4).config.steps == 4
    assert len(model.localizer(6).segments) == 21
    assert len(model.localizer(4).segments) == 10


def test_shared_parameters_stay_shared():
    model = build(settings_of(fidelities=((6, 16), (4, 24))))
    moved = copy.deepcopy(model).double()
    for each in (model, moved):
        assert each.localizer(6).input.weight is each.localizer(4).input.weight
    model.load_state_dict(moved.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.localizer(4).input.weight.clone()
    gradients(model, snippets("tiny"))
    optimizer.step()
    assert not torch.equal(model.localizer(4).input.weight, before)
    assert model.localizer(6).input.weight is model.localizer(4).input.weight


def test_each_length_goes_to_its_localizer():
    model = build(settings_of(fidelities=((6, 16), (4, 24)))).eval()
    with torch.no_grad():
        assert model(snippets("tiny", 6, 16)).start.shape == (2, 6)
        assert model(snippets("tiny", 4, 24)).start.shape == (2, 4)


def test_snippets_are_seen_as_in_extraction():
    encoder = new_encoder("tiny", 0).eval()
    spec = encoder.preprocessing
    frames = torch.randint(0, 256, (3, spec.clip_frames, *spec.resize, 3), dtype=torch.uint8)
    margin = (spec.resize[0] - spec.crop) // 2
    cut = frames[:, :, margin : margin + spec.crop, margin : margin + spec.crop]
    with torch.no_grad():
        expected = encoder(torch.stack([spec.apply(clip) for clip in frames]))
        torch.testing.assert_close(SnippetEncoder(encoder)(cut), expected, rtol=0, atol=0)


def test_a_batch_is_videos_side_by_side():
    model = build(settings_of(chunk=4)).eval()
    frames = snippets("tiny", videos=3)
    with torch.no_grad():
        together = model(frames)
        alone = [model(frames[video : video + 1]) for video in range(3)]
    torch.testing.assert_close(together.iou, torch.cat([each.iou for each in alone]))


def test_settings_of_the_localizer_are_checked():
    configs = localizer_configs(settings_of(fidelities=((6, 16), (4, 24))), 128)
    assert [(length, config.steps, config.max_duration) for length, config in configs.items()] == [(6, 6, 6), (4, 4, 4)]
    with one_sentence("'actionformer'", "bmn, gtad"):
        localizer_configs(EndToEndSettings(localizer="actionformer"), 128)
    with one_sentence("'hidden_1d'", "end_to_end.config of gtad"):
        localizer_configs(EndToEndSettings(config={"hidden_1d": 33}), 128)
    with one_sentence("steps", "follow from the fidelities"):
        localizer_configs(EndToEndSettings(config={"steps": 33}), 128)


def test_a_fidelity_is_no_finer_than_extraction():
    spec = ENCODERS["tiny"].preprocessing
    check_fidelities(settings_of(fidelities=((6, 48),)), "tiny", spec)
    with one_sentence("48 pixels", "found 49", "tiny"):
        check_fidelities(settings_of(fidelities=((6, 16), (4, 49))), "tiny", spec)


@pytest.mark.parametrize(
    ("encoder", "sides"),
    [("tsm_18", [112, 158, 224]), ("r2plus1d_18", [56, 79, 112]), ("r3d_18", [56, 79, 112]), ("tiny", [24, 34, 48])],
)
def test_the_published_fidelities_are_scaled_to_the_encoder(encoder, sides):
    kind, settings = ENCODERS[encoder], EndToEndSettings()
    check_fidelities(settings, encoder, kind.preprocessing)
    told = resolved(settings, kind.preprocessing)
    assert [(each.snippets, each.pixels) for each in told.fidelities] == list(zip((100, 50, 25), sides, strict=True))
    assert localizer_configs(settings, kind.feature_dim) == localizer_configs(told, kind.feature_dim)


def test_memory_of_a_training_follows_its_optimizer_average_and_precision():
    def step_bytes(device="cpu", **how):
        training = FitSettings(**{"epochs": 1, "batch_size": 3, "optimizer": "sgd", "learning_rates": {}, **how})
        memory = training_memory(encoder, settings_of(), training, device)
        assert memory.batch_size == 3
        return memory.step_bytes(Fidelity(snippets=6, pixels=16), 18)

    encoder = new_encoder("tiny", seed=0)
    model = Lofi(encoder, settings_of())
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    plain = step_bytes(momentum=0.0)
    for copies, how in ((1, {}), (2, {"optimizer": "adam"}), (3, {"optimizer": "adamw", "average": 0.9})):
        assert step_bytes(**how) - plain == pytest.approx(SPARE * copies * weights, rel=0.01), how
    assert step_bytes("cuda") == step_bytes(precision="bf16") < step_bytes("cuda", precision="fp32") == step_bytes()


@pytest.mark.parametrize("budget", [float("inf"), float("nan"), 0.0, -1.0])
def test_a_memory_budget_is_a_finite_number(budget):
    with pytest.raises(ValidationError, match="memory_gib"):
        EndToEndSettings(memory_gib=budget)


def test_fidelities_that_are_told_stay():
    settings = settings_of(fidelities=((6, 16), (4, 24)))
    assert fidelities_of(settings, ENCODERS["tsm_18"].preprocessing) == settings.fidelities
    assert resolved(settings, ENCODERS["tsm_18"].preprocessing) == settings


def test_fidelities_from_the_finest_to_the_coarsest():
    assert finest_first(224)[:4] == [FULL, T_LOFI, ST_LOFI, S_LOFI]
    assert [(each.snippets, each.pixels) for each in finest_first(112)] == [
        (100, 112),
        (25, 112),
        (50, 79),
        (100, 56),
        (50, 56),
        (25, 56),
        (25, 28),
        (13, 28),
    ]
    # A quarter of 48 pixels is less than any network makes sense of.
    assert min(each.pixels for each in finest_first(48)) == 24
    # Each of the paper's three costs a quarter of the full fidelity.
    costs = [each.snippets * each.pixels**2 / (100 * 224**2) for each in (T_LOFI, ST_LOFI, S_LOFI)]
    assert costs == pytest.approx([0.25, 0.25, 0.25], abs=0.002)
