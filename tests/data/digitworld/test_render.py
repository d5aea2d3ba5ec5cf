"""What a picture shows can be read off its pixels, and what a text says off its words: exactly, for all of them."""

import itertools

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from clipib.data.digitworld import render
from clipib.data.digitworld.render import GREY, GROUND, NOISE_BOUND, PALETTE, TINTS, Meaning, Shown
from clipib.data.digitworld.scene import (
    ATTRIBUTES,
    FRAMES,
    TEMPLATES,
    VALUES,
    WORDS,
    Scenes,
    load_samples,
    sample_scenes,
)


def scenes_of(sample, color, place, tint):
    """Scenes of one object with everything given, grey where the colour is GREY; captions do not matter."""
    sample, color, place, tint = (np.asarray(x) for x in np.broadcast_arrays(sample, color, place, tint))
    blank = sample_scenes(np.arange(len(sample)), split="train")
    return blank._replace(
        digit=load_samples()[1][sample][:, None],
        color=np.where(color == GREY, 0, color)[:, None].astype(np.int8),
        place=place[:, None].astype(np.int8),
        grey=(color == GREY)[:, None],
        sample=sample[:, None].astype(np.int32),
        tint=tint.astype(np.int8),
    )


def shown_of(scenes):
    """What the pictures of scenes show, from the latent variables instead of the pixels."""
    rows = (scenes.digit, np.where(scenes.grey, -1, scenes.color), scenes.place)
    objects = np.stack(rows, 2).tolist()
    return [
        Shown(tuple((digit, None if color < 0 else color, place) for digit, color, place in each), tint)
        for each, tint in zip(objects, scenes.tint.tolist(), strict=True)
    ]


def smallest_distances():
    """The smallest distances of noiseless pictures that show different things, by what differs.

    A bound over all pairs of pictures, by cases. Pictures that differ in tint differ by that at the last pixel, which
    no ink touches. Else one quadrant differs. If it is drawn on in one picture only, they differ at the cell with most
    ink. If in two colours, take the cell with most ink in one of them, and any ink at all in the other. If in one
    colour, two different digits have a cell whose ink differs by as much as any two samples of different digits do.
    """
    ink, digit = load_samples()
    ink = ink.reshape(-1, 64).astype(int)
    most = ink.max(1).min()  # every sample has a cell of at least this ink
    apart = int(cdist(ink, ink, "chebyshev")[digit[:, None] != digit].min())
    shade = render.paint()[..., ::4, :].astype(int)  # (9, 6, 4, 17, 3), at the ink of whole cells

    def largest(a, b):
        return np.abs(a - b).max(-1)

    return {
        "tint": min(largest(a, b) for a, b in itertools.combinations(TINTS, 2)),
        "place": largest(shade[..., most:, :], GROUND[:, :, None]).min(),
        "color": min(
            largest(shade[a][..., most:, None, :], shade[b][..., None, :, :]).min()
            for a, b in itertools.permutations(range(9), 2)
        ),
        # Ink that differs by more than `apart` differs by more in colour too: every channel runs one way.
        "digit": largest(shade[..., apart:, :], shade[..., :-apart, :]).min(),
    }


def test_noise_is_below_half_the_distance_of_pictures_that_show_different_things():
    distances = smallest_distances()
    assert min(distances.values()) > 2 * NOISE_BOUND, distances


def test_noise_is_too_small_to_mistake_the_ink_of_one_digit_for_that_of_another():
    """The reader looks for the digit in one channel: there half a unit of rounding adds to the noise."""
    ink, digit = load_samples()
    apart = cdist(ink.reshape(-1, 64), ink.reshape(-1, 64), "chebyshev")[digit[:, None] != digit].min()
    contrast = np.abs(PALETTE[:, None, None] - GROUND).max(-1).min()
    assert 16 * (NOISE_BOUND + 0.5) / contrast < apart / 2


def test_noise_never_leaves_the_range_of_a_byte():
    assert min(GROUND.min(), PALETTE.min()) >= NOISE_BOUND
    assert max(GROUND.max(), PALETTE.max()) <= 255 - NOISE_BOUND


@pytest.mark.parametrize("objects", [1, 2])
def test_noise_takes_every_value_within_its_bound(objects):
    scenes = sample_scenes(np.arange(200), split="test", objects=objects)
    noise = render.draw_pictures(scenes).astype(int) - render.draw_clean_pictures(scenes)
    values, counts = np.unique(noise, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(-NOISE_BOUND, NOISE_BOUND + 1))
    # A byte takes 256 values, so each of the 17 gets 15 or 16 of them; 0.3 % is five standard errors of 614400 draws.
    assert counts.min() / noise.size > 15 / 256 - 0.003 and counts.max() / noise.size < 16 / 256 + 0.003
    flat = noise.reshape(len(noise), -1) / noise.std()
    assert np.abs(np.corrcoef(flat) - np.eye(200)).max() < 6 / np.sqrt(flat.shape[1])  # 20000 pairs: six s.e.


def test_every_sample_in_every_colour_is_read_at_every_place_on_every_tint():
    """All 1797 samples in all 9 colours; places and tints go round, so that each meets each sample and each colour.

    That the remaining combinations read alike follows from the distances above; the slow test below reads them all.
    """
    sample, color = (x.ravel() for x in np.indices((1797, 9)))
    scenes = scenes_of(sample, color, (sample + color) % 4, (sample // 4 + color) % 6)
    assert render.read_scenes(render.draw_pictures(scenes)) == shown_of(scenes)


def test_every_colour_place_and_tint_is_read():
    color, place, tint = (x.ravel() for x in np.indices((9, 4, 6)))
    for sample in range(0, 1797, 190):
        scenes = scenes_of(np.full(len(color), sample), color, place, tint)
        assert render.read_scenes(render.draw_pictures(scenes)) == shown_of(scenes)


@pytest.mark.slow
@pytest.mark.parametrize("color", range(9))
def test_all_388152_pictures_are_read(color):
    for place, tint in itertools.product(range(4), range(6)):
        scenes = scenes_of(np.arange(1797), color, place, tint)
        assert render.read_scenes(render.draw_pictures(scenes)) == shown_of(scenes)


@pytest.mark.parametrize("objects", [1, 2])
def test_the_worst_noise_is_read_too(objects):
    scenes = sample_scenes(np.arange(400), split="test", objects=objects, seed=11)
    clean = render.draw_clean_pictures(scenes)
    rng = np.random.default_rng(0)
    extreme = rng.choice([-NOISE_BOUND, NOISE_BOUND], clean.shape)
    for noise in (NOISE_BOUND, -NOISE_BOUND, extreme):
        assert render.read_scenes((clean.astype(int) + noise).astype(np.uint8)) == shown_of(scenes)


def test_two_objects_are_read_in_the_order_of_their_places():
    scenes = sample_scenes(np.arange(2000), split="train", objects=2)
    pictures = render.draw_pictures(scenes)
    assert pictures.shape == (2000, 32, 32, 3) and pictures.dtype == np.uint8
    assert render.read_scenes(pictures) == shown_of(scenes)
    assert render.read_scene(pictures[7]) == shown_of(scenes)[7]


def test_pictures_are_the_same_alone_and_in_any_order():
    scenes = sample_scenes(np.arange(50), split="val", objects=2)
    pictures = render.draw_pictures(scenes)
    some = Scenes(*(array[[30, 2]] for array in scenes))
    np.testing.assert_array_equal(render.draw_pictures(some), pictures[[30, 2]])
    assert render.write_captions(some) == [render.write_captions(scenes)[k] for k in (30, 2)]


def test_enlarging_is_bilinear_and_keeps_the_cells():
    from scipy.ndimage import zoom

    wide, cells = render.ink_of_samples(), load_samples()[0]
    np.testing.assert_array_equal(wide[:, ::2, ::2], 4 * cells)
    assert wide[:, -1].max() == 0 and wide[:, :, -1].max() == 0
    # The means of two cells are exact, of four may be half a 64th too large before it is cut off.
    independent = zoom(4.0 * cells[:50], (1, 15 / 8, 15 / 8), order=1)
    np.testing.assert_array_equal(wide[:50, :15, :15], np.floor(independent + 1e-9))


def test_no_scenes_give_no_pictures_and_no_captions():
    none = sample_scenes(np.arange(0), split="test")
    assert render.draw_pictures(none).shape == (0, 32, 32, 3)
    assert render.write_captions(none) == [] and render.read_scenes(render.draw_pictures(none)) == []


def test_a_picture_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"not \(1, 3, 32, 32\)"):
        render.read_scene(np.zeros((3, 32, 32), np.uint8))


def derivations():
    """Every frame with every choice of words, written out without the tables of the module."""
    choices = [
        [(None, None, None), *((v, s, word) for v, words in enumerate(WORDS[name]) for s, word in enumerate(words))]
        for name in ATTRIBUTES
    ]
    for frame, *chosen in itertools.product(range(len(FRAMES)), *choices):
        (digit, color, place) = (word for _, _, word in chosen)
        thing = f"the {color + ' ' if color else ''}{digit or 'thing'}"
        text = FRAMES[frame].replace("{thing}", thing).replace("{where}", f" in the {place}" if place else "")
        yield text, Meaning(*(v for v, _, _ in chosen)), frame, tuple(s for _, s, _ in chosen)


def test_every_text_has_exactly_one_derivation_and_parsing_finds_it():
    texts = list(derivations())
    assert len({text for text, *_ in texts}) == len(texts) == 12 * 21 * 25 * 9
    for text, meaning, frame, synonyms in texts:
        assert render.derive_caption(text) == (meaning, frame, synonyms)


def test_texts_are_short_plain_lower_case_words():
    for text in render.grammar():
        assert text == " ".join(text.split()) and text.replace(" ", "").isalnum() and text == text.lower()
        assert len(text.split()) <= 20


def test_captions_say_what_the_scene_states():
    scenes = sample_scenes(np.arange(3000), split="train", objects=2, seed=2)
    for k, caption in enumerate(render.write_captions(scenes)):
        derived = render.derive_caption(caption)
        assert [-1 if x is None else x for x in derived.meaning] == scenes.stated[k].tolist()
        assert [-1 if x is None else x for x in derived.synonyms] == scenes.synonym[k].tolist()
        assert derived.frame == scenes.frame[k]


@pytest.mark.parametrize("text", ["", "the", "The red seven", "the red seven ", "the seven red", "a photo of a dog"])
def test_text_outside_the_grammar_is_named(text):
    with pytest.raises(ValueError, match=repr(text)):
        render.parse_caption(text)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_templates_are_captions_that_mention_their_attribute_alone(attribute):
    for value, word in enumerate(VALUES[attribute]):
        for template in TEMPLATES[attribute]:
            meaning = render.parse_caption(template.format(c=word))
            assert meaning == Meaning(None, None, None)._replace(**{attribute: value})
