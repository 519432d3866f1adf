"""What holds for every captioner of the table."""

import pydantic
import pytest
import torch
from torch import nn

from baselines import CAPTIONERS
from baselines.caption_contract import END, PAD, SPECIAL_WORDS, START, CaptionBatch, Stream, padded_words

SMALL = {
    "bmt": {"feature_dim": 8, "words": 12, "word_dim": 12, "d_model": 8, "heads": 2},
}
AUDIO_DIM = 6
WORDS = 12


@pytest.fixture(params=sorted(CAPTIONERS))
def name(request):
    return request.param


@pytest.fixture(params=[0, AUDIO_DIM], ids=["visual", "bimodal"])
def captioner(name, request):
    torch.manual_seed(0)
    return CAPTIONERS[name](CAPTIONERS[name].Config(**SMALL[name], audio_dim=request.param))


def some_segments(captioner, count=4):
    generator = torch.Generator().manual_seed(1)
    channels = [8, AUDIO_DIM] if captioner.config.audio_dim else [8]
    streams = []
    for number, width in enumerate(channels):
        lengths = torch.randint(1, 8 + 4 * number, (count,), generator=generator)
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        features = torch.randn(count, width, mask.shape[1], generator=generator)
        streams.append(Stream(features, mask, torch.ones(count) / (1 + number)))
    sentences = [torch.randint(SPECIAL_WORDS, WORDS, (length,)).tolist() for length in range(1, count + 1)]
    return CaptionBatch(tuple(streams), padded_words(sentences))


def total_loss(captioner, batch):
    return captioner.loss(captioner(batch.streams, batch.words[:, :-1]), batch.words)


def cut(batch, segment):
    """Return one segment without the padding that it has from the others."""
    one = slice(segment, segment + 1)
    streams = []
    for stream in batch.streams:
        length = int(stream.mask[segment].sum())
        streams.append(Stream(stream.features[one, :, :length], stream.mask[one, :length], stream.row_steps[one]))
    return CaptionBatch(tuple(streams), batch.words[one, : int((batch.words[segment] != PAD).sum())])


def test_it_is_a_module_built_from_its_settings(captioner):
    assert isinstance(captioner, nn.Module)


def test_settings_are_strict_and_frozen(name):
    config = CAPTIONERS[name].Config(**SMALL[name])
    with pytest.raises(pydantic.ValidationError):
        CAPTIONERS[name].Config(**SMALL[name], no_such_setting=1)
    with pytest.raises(pydantic.ValidationError):
        CAPTIONERS[name].Config(**{**SMALL[name], "feature_dim": "8"})
    with pytest.raises(pydantic.ValidationError):
        config.feature_dim = 16
    CAPTIONERS[name].Config(feature_dim=512, words=10_000)  # everything else has a default


def test_loss_is_finite_and_its_gradient_reaches_every_parameter(captioner):
    losses = total_loss(captioner, some_segments(captioner))
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    losses["total"].backward()
    for parameter_name, parameter in captioner.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


def test_it_says_probabilities(captioner):
    batch = some_segments(captioner)
    said = captioner(batch.streams, batch.words)
    assert said.shape == (*batch.words.shape, WORDS)
    torch.testing.assert_close(said.exp().sum(dim=2), torch.ones(batch.words.shape))


def test_same_seed_gives_the_same_bits(captioner):
    runs = []
    batch = some_segments(captioner)
    for _ in range(2):
        captioner.zero_grad()
        torch.manual_seed(0)  # the global generator is that of random layers
        losses = total_loss(captioner, batch)
        losses["total"].backward()
        runs.append([losses["total"].detach(), *(parameter.grad.clone() for parameter in captioner.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@torch.no_grad()
def test_encoding_keeps_lengths_and_is_zero_at_padding(captioner):
    batch = some_segments(captioner)
    encoded = captioner.eval().encode(batch.streams)
    assert len(encoded) == len(batch.streams)
    for known, stream in zip(encoded, batch.streams, strict=True):
        assert torch.equal(known.mask, stream.mask)
        assert torch.equal(known.row_steps, stream.row_steps)
        assert (known.features.masked_select(~stream.mask[:, None]) == 0).all()


@torch.no_grad()
def test_a_segment_does_not_depend_on_its_companions(captioner):
    batch = some_segments(captioner)
    captioner.eval()
    encoded, said = captioner.encode(batch.streams), captioner(batch.streams, batch.words)
    for segment in range(4):
        alone = cut(batch, segment)
        for one, together in zip(captioner.encode(alone.streams), encoded, strict=True):
            length = one.mask.shape[1]
            torch.testing.assert_close(one.features[0], together.features[segment, :, :length], rtol=1e-5, atol=1e-5)
        expected = said[segment, : alone.words.shape[1]]
        torch.testing.assert_close(captioner(alone.streams, alone.words)[0], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_padding_and_later_words_change_nothing(captioner):
    batch = some_segments(captioner)
    captioner.eval()
    said = captioner(batch.streams, batch.words)
    padded = tuple(
        Stream(stream.features.masked_fill(~stream.mask[:, None], 1e30), stream.mask, stream.row_steps)
        for stream in batch.streams
    )
    torch.testing.assert_close(captioner(padded, batch.words), said, rtol=0, atol=1e-6)
    for place in range(1, batch.words.shape[1]):
        words = batch.words.clone()
        words[:, place:] = (words[:, place:] + 3) % WORDS
        torch.testing.assert_close(captioner(batch.streams, words)[:, :place], said[:, :place], rtol=0, atol=1e-6)


@torch.no_grad()
def test_steps_equal_the_full_pass_also_after_select(captioner):
    batch = some_segments(captioner)
    captioner.eval()
    said = captioner(batch.streams, batch.words)
    order = torch.tensor([3, 0, 3, 1, 2, 2])
    state = captioner.begin(batch.streams)
    words = batch.words
    for place in range(words.shape[1]):
        step, state = captioner.step(words[:, place], state)
        torch.testing.assert_close(step, said[:, place], rtol=0, atol=1e-5)
        if place == 2:
            state, said, words = state.select(order), said[order], words[order]


def test_word_vectors_are_taken_over(captioner):
    before = sum(parameter.numel() for parameter in captioner.parameters() if parameter.requires_grad)
    vectors = torch.randn(WORDS, SMALL["bmt"]["word_dim"])
    captioner.set_word_vectors(vectors, frozen=True)
    after = sum(parameter.numel() for parameter in captioner.parameters() if parameter.requires_grad)
    assert before - after == vectors.numel()
    assert any(parameter.equal(vectors) for parameter in captioner.parameters() if parameter.shape == vectors.shape)
    with pytest.raises(ValueError, match="expected"):
        captioner.set_word_vectors(vectors[:-1], frozen=True)


def test_bfloat16_autocast_gives_a_finite_loss_and_steps(captioner):
    batch = some_segments(captioner)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = total_loss(captioner, batch)
        state = captioner.begin(batch.streams)
        for word in (START, 5, END):
            step, state = captioner.step(torch.full((4,), word), state)
            assert step.dtype == torch.float32
            assert step.isfinite().all()
    losses["total"].backward()
    assert losses["total"].isfinite()
    assert losses["total"].dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in captioner.parameters())


def test_streams_that_are_not_the_settings_are_named(captioner):
    batch = some_segments(captioner)
    first = batch.streams[0]
    narrow = Stream(first.features[:, :4], first.mask, first.row_steps)
    for wrong in ((), (narrow, *batch.streams[1:]), (*batch.streams, first)):
        with pytest.raises(ValueError, match="8"):
            captioner(wrong, batch.words)


def test_batches_check_themselves(captioner):
    batch = some_segments(captioner)
    moved = batch.to("cpu")
    assert torch.equal(moved.words, batch.words)
    assert torch.equal(moved.streams[0].features, batch.streams[0].features)
    with pytest.raises(ValueError, match="int64 words"):
        CaptionBatch(batch.streams, batch.words.float())
    with pytest.raises(ValueError, match="as many segments"):
        CaptionBatch(batch.streams, batch.words[1:])
    stream = batch.streams[0]
    with pytest.raises(ValueError, match="row_steps"):
        Stream(stream.features, stream.mask, stream.row_steps[1:])


def test_padded_words_worked_by_hand():
    assert padded_words([[7, 8], []]).tolist() == [[START, 7, 8, END], [START, END, PAD, PAD]]
    assert padded_words([]).shape == (0, 2)


def test_every_captioner_has_a_small_example():
    assert sorted(SMALL) == sorted(CAPTIONERS)
