import math

import pydantic
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.bmt import BMT, BMTConfig
from baselines.caption_contract import END, PAD, START, Stream, padded_words

SMALL = {"feature_dim": 6, "words": 11, "word_dim": 10, "d_model": 8, "heads": 2}
MODES = pytest.mark.parametrize("audio_dim", [0, 5], ids=["visual", "bimodal"])


def small_model(audio_dim=5, **changed):
    torch.manual_seed(0)
    model = BMT(BMTConfig(**{**SMALL, "audio_dim": audio_dim, **changed}))
    for parameter in model.parameters():
        if parameter.ndim == 1:  # scales and shifts that differ
            parameter.data += 0.3 * torch.randn(parameter.shape)
    return model


def some_streams(model, visual=(7, 3, 5), audio=(4, 9, 1)):
    """Return streams of segments of the given lengths."""
    generator = torch.Generator().manual_seed(1)
    streams = []
    for channels, lengths in zip(model.config.stream_dims, (visual, audio), strict=False):
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        features = torch.randn(len(lengths), channels, max(lengths), generator=generator)
        streams.append(Stream(features, mask, torch.ones(len(lengths))))
    return tuple(streams)


SENTENCES = padded_words([[4, 5, 6, 7, 8], [9], [10, 4, 4]])


# The plain formulation: one segment, one sentence, nothing padded, a word after the other.


def plain_norm(layer, rows):
    centred = rows - rows.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def plain_linear(layer, rows):
    return rows @ layer.weight.T + layer.bias


def plain_attention(layer, rows, others):
    found = []
    mapped = zip((layer.query, layer.key, layer.value), (rows, others, others), strict=True)
    for q, k, v in zip(*(plain_linear(each, x).chunk(layer.heads, dim=1) for each, x in mapped), strict=True):
        found.append((q @ k.T / math.sqrt(q.shape[1])).softmax(dim=1) @ v)
    return plain_linear(layer.output, torch.cat(found, dim=1))


def plain_feed_forward(layer, rows):
    first, _, _, second = layer.perceptron
    return rows + plain_linear(second, F.relu(plain_linear(first, plain_norm(layer.norm, rows))))


def plain_self(layer, rows):
    normal = plain_norm(layer.norm, rows)
    return rows + plain_attention(layer.attention, normal, normal)


def plain_cross(layer, rows, others):
    return rows + plain_attention(layer.attention, plain_norm(layer.norm, rows), others)


def plain_positions(rows):
    length, width = rows.shape
    turns = [[p / 10000 ** (c / width) for c in range(width)] for p in range(length)]
    placed = [[math.cos(t) if c % 2 else math.sin(t) for c, t in enumerate(row)] for row in turns]
    return rows + torch.tensor(placed, dtype=rows.dtype)


def plain_encoder(model, streams):
    """Encode ``(T, C)`` of each stream."""
    rows = [plain_positions(stream) for stream in streams]
    for layer in model.encoder:
        rows = [plain_self(each, stream) for each, stream in zip(layer.self_attentions, rows, strict=True)]
        if len(rows) == 2:
            seen, heard = rows
            looks_at_sound, looks_at_sight = layer.cross_attentions
            rows = [plain_cross(looks_at_sound, seen, heard), plain_cross(looks_at_sight, heard, seen)]
        rows = [plain_feed_forward(each, stream) for each, stream in zip(layer.feed_forwards, rows, strict=True)]
    return rows


def plain_last_word(model, streams, words):
    """Return ``(V,)``, log-probabilities of the word behind all ``words``, of which only the last sees all."""
    rows = plain_positions(model.embedding.weight[words] * math.sqrt(model.config.word_dim))
    for layer in model.decoder:
        # Row by row, each with those before it.
        rows = torch.stack([plain_self(layer.self_attention, rows[: i + 1])[-1] for i in range(len(rows))])
        rows_of = [
            plain_cross(each, rows, stream) for each, stream in zip(layer.stream_attentions, streams, strict=True)
        ]
        if len(rows_of) == 2:
            norm, bridge, _, _ = layer.bridge
            rows = F.relu(plain_linear(bridge, plain_norm(norm, torch.cat(rows_of, dim=1))))
        else:
            (rows,) = rows_of
        rows = plain_feed_forward(layer.feed_forward, rows)
    return plain_linear(model.generator, rows)[-1].log_softmax(dim=0)


@MODES
@torch.no_grad()
def test_a_padded_batch_equals_the_plain_formulation_of_each_sentence(audio_dim):
    model = small_model(audio_dim).eval()
    streams = some_streams(model)
    encoded, said = model.encode(streams), model(streams, SENTENCES)
    model.double()
    for b, words in enumerate(SENTENCES):
        known = plain_encoder(model, [each.features[b, :, each.mask[b]].T.double() for each in streams])
        for plain, stream in zip(known, encoded, strict=True):
            torch.testing.assert_close(stream.features[b, :, stream.mask[b]].T.double(), plain, rtol=1e-5, atol=1e-5)
        for length in range(1, int((words != PAD).sum())):
            expected = plain_last_word(model, known, words[:length])
            torch.testing.assert_close(said[b, length - 1].double(), expected, rtol=1e-5, atol=1e-5)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_number_of_parameters_part_by_part_beside_the_paper_s_51_million():
    with torch.device("meta"):
        model = BMT(BMTConfig(feature_dim=1024, audio_dim=128, words=10_172))
        model.set_word_vectors(torch.empty(10_172, 300), frozen=True)

    def linear(inputs, outputs):
        return inputs * outputs + outputs

    def attention(rows, others):  # with its normalization
        return 2 * rows + linear(rows, 1024) + 2 * linear(others, 1024) + linear(1024, rows)

    def perceptron(width):  # with its normalization
        return 2 * width + linear(width, 4 * width) + linear(4 * width, width)

    seen, heard, word = 1024, 128, 300
    encoder = attention(seen, seen) + attention(seen, heard) + perceptron(seen)
    encoder += attention(heard, heard) + attention(heard, seen) + perceptron(heard)
    bridge = 2 * 600 + linear(600, 300)
    decoder = attention(word, word) + attention(word, seen) + attention(word, heard) + bridge + perceptron(word)
    assert count(model.encoder) == 2 * encoder == 35_968_256
    assert count(model.decoder) == 2 * decoder == 11_464_824
    assert count(model.generator) == linear(300, 10_172) == 3_061_772
    assert count(model.embedding) == 10_172 * 300 == 3_051_600
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == 50_494_852  # the paper: 51 M
    assert count(model) == trained + 3_051_600 == 53_546_452
    # The release's best_cap_model.pt has 618,251,043 bytes: all weights and two moments of each trained one, float32.
    # A word takes 4,812 of them; names and headers of the 559 tensors, written as torch 1.2 does, some 112 kB.
    assert 618_251_043 - 4 * (count(model) + 2 * trained) == pytest.approx(112_000, abs=2 * 4_812)


@MODES
@torch.no_grad()
def test_padding_of_a_stream_changes_nothing(audio_dim):
    model = small_model(audio_dim).eval()
    streams = some_streams(model)
    encoded, said = model.encode(streams), model(streams, SENTENCES)
    for number, stream in enumerate(streams):
        for value in (1e4, -3e38, math.inf, math.nan):
            changed = Stream(stream.features.masked_fill(~stream.mask[:, None], value), stream.mask, stream.row_steps)
            others = (*streams[:number], changed, *streams[number + 1 :])
            assert torch.equal(model(others, SENTENCES), said)
            for one, other in zip(model.encode(others), encoded, strict=True):
                assert torch.equal(one.features, other.features)
                assert (one.features.masked_select(~one.mask[:, None]) == 0).all()


@MODES
@torch.no_grad()
def test_every_row_of_a_stream_and_every_word_so_far_changes_something(audio_dim):
    model = small_model(audio_dim).eval()
    streams = some_streams(model)
    said = model(streams, SENTENCES)
    for number, stream in enumerate(streams):
        for row in range(stream.mask.shape[1]):
            features = stream.features.clone()
            features[:, :, row] = -features[:, :, row]
            others = (*streams[:number], Stream(features, stream.mask, stream.row_steps), *streams[number + 1 :])
            difference = (model(others, SENTENCES) - said).abs().amax(dim=(1, 2))
            assert torch.equal(difference > 1e-5, stream.mask[:, row])
    for place in range(SENTENCES.shape[1]):
        words = SENTENCES.clone()
        words[:, place] = (words[:, place] + 1) % model.config.words
        difference = (model(streams, words) - said).abs().amax(dim=2)
        assert (difference[:, :place] == 0).all()  # later words, and the padding behind a sentence
        assert (difference[:, place:] > 1e-6).all()


@MODES
@torch.no_grad()
def test_steps_with_kept_keys_equal_the_full_pass(audio_dim):
    model = small_model(audio_dim).eval()
    streams = some_streams(model)
    said = model(streams, SENTENCES)
    state = model.begin(streams)
    for place in range(SENTENCES.shape[1]):
        step, state = model.step(SENTENCES[:, place], state)
        torch.testing.assert_close(step, said[:, place], rtol=0, atol=1e-5)


@MODES
@torch.no_grad()
def test_steps_go_on_after_select(audio_dim):
    model = small_model(audio_dim).eval()
    streams = some_streams(model)
    state = model.begin(streams).select(torch.tensor([0, 0, 1, 2]))
    segments = torch.tensor([0, 0, 1, 2])
    words = torch.tensor([[START]] * 4)
    _, state = model.step(words[:, 0], state)
    generator = torch.Generator().manual_seed(0)
    for length in range(2, 8):
        kept = torch.randint(len(words), (5,), generator=generator)
        next_words = torch.randint(4, 11, (5,), generator=generator)
        words, segments = torch.cat([words[kept], next_words[:, None]], dim=1), segments[kept]
        step, state = model.step(next_words, state.select(kept))
        chosen = tuple(
            Stream(each.features[segments], each.mask[segments], each.row_steps[segments]) for each in streams
        )
        assert words.shape == (5, length)
        torch.testing.assert_close(step, model(chosen, words)[:, -1], rtol=0, atol=1e-5)


def test_loss_worked_by_hand():
    # Six words; half of a label is the true word's, an eighth each goes to the four that are neither it nor padding.
    model = small_model(label_smoothing=0.5, words=6)
    said = torch.tensor([1, 1, 2, 4, 4, 4]) / 16  # PAD, START, END, UNKNOWN, 4, 5
    words = torch.tensor([[START, 4, END, PAD]])
    log_probabilities = torch.stack([said, said, torch.full((6,), 1e-9)]).log()[None]
    losses = model.loss(log_probabilities, words)
    # 4: 1/2 ln (1/2 : 1/4) + 1/8 (ln (1/8 : 1/16) + ln (1/8 : 1/8) + 2 ln (1/8 : 1/4)) = (1/2 + 1/8 - 2/8) ln 2
    # END: 1/2 ln (1/2 : 1/8) + 1/8 (ln (1/8 : 1/16) + 3 ln (1/8 : 1/4)) = (1 + 1/8 - 3/8) ln 2
    torch.testing.assert_close(losses["total"].item(), (3 / 8 + 3 / 4) / 2 * math.log(2))
    torch.testing.assert_close(losses["cross_entropy"].item(), (2 + 3) / 2 * math.log(2))


@settings(deadline=None, max_examples=30)
@given(smoothing=st.sampled_from([0.0, 0.1, 0.7]), seed=st.integers(0, 2**32 - 1))
def test_loss_equals_the_divergence_from_labels_written_out(smoothing, seed):
    generator = torch.Generator().manual_seed(seed)
    model = small_model(label_smoothing=smoothing)
    log_probabilities = torch.randn(3, 6, 11, generator=generator).double().log_softmax(dim=2).requires_grad_()
    labels = torch.zeros(3, 6, 11).double()
    for b, sentence in enumerate(SENTENCES.tolist()):
        for place, word in enumerate(sentence[1:]):
            if word != PAD:
                labels[b, place] = smoothing / 9
                labels[b, place, PAD] = 0
                labels[b, place, word] = 1 - smoothing
    expected = F.kl_div(log_probabilities, labels, reduction="sum") / (SENTENCES[:, 1:] != PAD).sum()
    total = model.loss(log_probabilities, SENTENCES)["total"]
    torch.testing.assert_close(total, expected)
    gradients = [torch.autograd.grad(each, log_probabilities)[0] for each in (total, expected)]
    torch.testing.assert_close(*gradients)


def test_word_vectors_are_taken_over_and_frozen_or_trained():
    model = small_model()
    vectors = torch.randn(11, 10)
    model.set_word_vectors(vectors, frozen=True)
    assert torch.equal(model.embedding.weight, vectors)
    model.loss(model(some_streams(model), SENTENCES[:, :-1]), SENTENCES)["total"].backward()
    assert model.embedding.weight.grad is None
    model.set_word_vectors(2 * vectors, frozen=False)
    assert torch.equal(model.embedding.weight, 2 * vectors)
    model.loss(model(some_streams(model), SENTENCES[:, :-1]), SENTENCES)["total"].backward()
    assert model.embedding.weight.grad[[START, 4, 9]].abs().sum(dim=1).gt(0).all()
    with pytest.raises(ValueError, match=r"\(11, 10\), got \(10, 11\)"):
        model.set_word_vectors(vectors.T, frozen=True)


@MODES
def test_overfits_a_handful_of_sentences(audio_dim):
    model = small_model(audio_dim, word_dim=24, d_model=24, dropout=0.0)
    streams = some_streams(model, (5, 3, 4, 6, 2), (4, 2, 5, 1, 3))
    sentences = [[4, 5, 6, 7, 8], [9], [10, 4, 4], [4, 5, 8, 6, 10, 9], [4, 4, 4, 4]]
    words = padded_words(sentences)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(120):
        optimizer.zero_grad()
        model.loss(model(streams, words[:, :-1]), words)["total"].backward()
        optimizer.step()
    model.eval()
    assert greedy(model, streams, 10) == sentences


@torch.no_grad()
def greedy(model, streams, longest):
    word, state = torch.full((len(streams[0].features),), START), model.begin(streams)
    written = []
    for _ in range(longest):
        log_probabilities, state = model.step(word, state)
        word = log_probabilities.argmax(dim=1)
        written.append(word)
    sentences = torch.stack(written, dim=1).tolist()
    return [sentence[: sentence.index(END)] if END in sentence else sentence for sentence in sentences]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"heads": 3}, "d_model 8 is not a multiple of the 3 heads"),
        ({"words": 4}, "words"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"dropout": 1.0}, "dropout"),
        ({"layers": 0}, "layers"),
        ({"audio_dim": -1}, "audio_dim"),
    ],
)
def test_impossible_settings_are_named(changed, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        BMTConfig(**{**SMALL, **changed})


def test_streams_of_other_channels_are_named():
    model = small_model()
    streams = some_streams(model)
    for wrong in (streams[:1], streams[::-1]):
        with pytest.raises(ValueError, match=r"expected streams of \(6, 5\) channels"):
            model.encode(wrong)
