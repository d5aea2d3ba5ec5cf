"""The scenes are reproducible, and follow the probabilities that are written down."""

import numpy as np
import pytest

from clipib.data.digitworld import scene
from clipib.data.digitworld.scene import ATTRIBUTES, PRIOR, VALUES, WORDS, Scenes, draw_sensors, sample_scenes

N = 40_000
# Five standard errors: some 200 frequencies are compared below, so that four would be missed about once in 80 seeds.
ERRORS = 5


def frequencies_match(values, probabilities):
    """Each value's frequency lies within ERRORS standard errors of its probability."""
    count = np.bincount(np.ravel(values), minlength=len(probabilities))
    total = np.size(values)
    error = np.sqrt(np.asarray(probabilities) * (1 - np.asarray(probabilities)) / total)
    return np.all(np.abs(count / total - probabilities) <= ERRORS * error + 1e-12)


@pytest.fixture(scope="module")
def single():
    return sample_scenes(np.arange(N), split="train", seed=7)


@pytest.fixture(scope="module")
def double():
    return sample_scenes(np.arange(N), split="train", objects=2, seed=7)


@pytest.mark.parametrize("objects", [1, 2])
def test_a_scene_is_the_same_alone_in_a_block_and_in_any_order(objects):
    indices = np.array([5, 0, 255, 256, 100_003, 5, 2**40])
    block = sample_scenes(np.arange(300), split="val", objects=objects, seed=3)
    mixed = sample_scenes(indices, split="val", objects=objects, seed=3)
    for at, index in enumerate(indices):
        alone = sample_scenes([index], split="val", objects=objects, seed=3)
        for name in Scenes._fields:
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(mixed, name)[at])
            if index < 300:
                np.testing.assert_array_equal(getattr(alone, name)[0], getattr(block, name)[index])


def test_no_scenes_at_all():
    assert sample_scenes(np.arange(0), split="test", objects=2).digit.shape == (0, 2)


def test_seed_split_and_objects_each_give_other_scenes():
    keys = [
        sample_scenes(np.arange(500), split=split, objects=objects, seed=seed).noise_key
        for split in scene.SPLITS
        for objects in (1, 2)
        for seed in (0, 1, 2**32, -1)
    ]
    assert len(np.unique(keys)) == np.size(keys)


def test_the_random_words_are_those_of_splitmix64():
    # The first outputs of the reference implementation (Vigna, splitmix64.c) for the seed 1234567.
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert scene.random_words(np.array([1234567], np.uint64), 5)[0].tolist() == expected


def test_the_data_set_never_changes():
    """In any process, on any platform: else numbers that were published no longer hold."""
    scenes = sample_scenes([0, 1, 12345], split="test", objects=2, seed=0)
    assert scenes.digit.tolist() == [[3, 4], [3, 2], [8, 9]]
    assert scenes.color.tolist() == [[7, 6], [2, 1], [0, 5]]
    assert scenes.place.tolist() == [[0, 2], [0, 2], [0, 3]]
    assert scenes.grey.tolist() == [[False, False], [False, True], [False, False]]
    assert scenes.sample.tolist() == [[1726, 1691], [1477, 1742], [1571, 1658]]
    assert scenes.tint.tolist() == [0, 5, 4]
    assert scenes.noise_key.tolist() == [13158975329181282055, 11986266929654481111, 14404817770986410545]
    assert scenes.stated.tolist() == [[3, 7, 0], [3, 2, -1], [8, 0, -1]]
    assert scenes.frame.tolist() == [9, 0, 10]
    assert scenes.synonym.tolist() == [[0, 2, 0], [0, 0, -1], [1, 2, -1]]
    # Logarithms differ in their last bits between platforms, hence no equality.
    np.testing.assert_allclose(scene.sensor_map()[0, :3], [-0.4343585, -0.00950732, 1.37873793], rtol=1e-6)


def test_shapes_and_types(double):
    types = dict.fromkeys(Scenes._fields, np.int8)
    types |= {"grey": bool, "mention": bool, "sample": np.int32, "noise_key": np.uint64}
    for name, array in double._asdict().items():
        assert array.dtype == types[name], name
    assert double.digit.shape == (N, 2) and double.stated.shape == (N, 3) and double.frame.shape == (N,)


def test_every_probability_is_positive_and_every_distribution_sums_to_one():
    for prior in (*PRIOR.values(), scene.TINT_PRIOR, *scene.SYNONYM_PRIOR.values(), *scene.FRAME_PRIOR):
        assert prior.min() > 0 and prior.sum() == pytest.approx(1, abs=1e-12)  # rounding of twelve additions
    for attribute in ATTRIBUTES:
        assert len(PRIOR[attribute]) == len(VALUES[attribute]) and len(set(PRIOR[attribute])) > 1
        # The same number of synonyms for every value: else the choice of a word would tell something.
        assert {len(words) for words in WORDS[attribute]} == {len(scene.SYNONYM_PRIOR[attribute])}


def test_the_splits_are_contiguous_disjoint_and_complete():
    parts = [np.sort(np.concatenate(scene.split_samples(split))) for split in scene.SPLITS]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(1797))
    assert [len(part) for part in parts] == [1258, 180, 359]
    with pytest.raises(ValueError, match="dev"):
        sample_scenes([0], split="dev")


@pytest.mark.parametrize("split", scene.SPLITS)
def test_samples_are_of_their_digit_and_split_and_all_occur(split):
    scenes = sample_scenes(np.arange(N), split=split)
    labels = scene.load_samples()[1]
    np.testing.assert_array_equal(labels[scenes.sample], scenes.digit)
    assert set(scenes.sample.ravel().tolist()) == set(np.concatenate(scene.split_samples(split)).tolist())


@pytest.mark.parametrize("view", ["single", "double"])
def test_attributes_grey_and_tint_follow_their_priors(view, request):
    scenes = request.getfixturevalue(view)
    for k in range(scenes.digit.shape[1]):
        assert frequencies_match(scenes.digit[:, k], PRIOR["digit"])
        assert frequencies_match(scenes.color[:, k], PRIOR["color"])
        for color in range(8):  # grey whatever the colour
            grey = scenes.grey[scenes.color[:, k] == color, k]
            assert frequencies_match(grey, [1 - scene.GREY_PROBABILITY, scene.GREY_PROBABILITY])
    assert frequencies_match(scenes.tint, scene.TINT_PRIOR)
    assert frequencies_match(scenes.described, np.full(scenes.digit.shape[1], 1 / scenes.digit.shape[1]))


def test_one_place_follows_its_prior_and_two_are_drawn_without_replacement(single, double):
    prior = PRIOR["place"]
    assert frequencies_match(single.place, prior)
    expected = np.zeros((4, 4))
    for first in range(4):
        for second in range(4):
            if first != second:
                low, high = sorted((first, second))
                expected[low, high] += prior[first] * prior[second] / (1 - prior[first])
    assert np.all(double.place[:, 0] < double.place[:, 1])
    assert frequencies_match(double.place @ [4, 1], expected.ravel())


@pytest.mark.parametrize("view", ["single", "double"])
def test_a_caption_states_the_described_object_with_the_known_errors(view, request):
    scenes = request.getfixturevalue(view)
    rows = np.arange(N)
    for column, attribute in enumerate(ATTRIBUTES):
        chance, wrong = scene.MENTION_PROBABILITY[attribute], scene.WRONG_PROBABILITY[attribute]
        mention, stated = scenes.mention[:, column], scenes.stated[:, column]
        assert frequencies_match(mention, [1 - chance, chance])
        np.testing.assert_array_equal(mention, stated >= 0)
        np.testing.assert_array_equal(mention, scenes.synonym[:, column] >= 0)
        truth = getattr(scenes, attribute)[rows, scenes.described]
        count = len(VALUES[attribute])
        shift = (stated - truth)[mention] % count  # 0 is right, each other shift equally likely
        assert frequencies_match(shift, [1 - wrong, *[wrong / (count - 1)] * (count - 1)])


def test_mentions_are_independent(single):
    chances = np.array([scene.MENTION_PROBABILITY[name] for name in ATTRIBUTES])
    sets = (np.arange(8)[:, None] >> np.arange(3)) & 1
    assert frequencies_match(single.mention @ [1, 2, 4], np.where(sets, chances, 1 - chances).prod(1))


def test_frames_and_synonyms_depend_on_what_is_mentioned_alone(single):
    number = single.mention.sum(1)
    for mentioned in range(4):
        assert frequencies_match(single.frame[number == mentioned], scene.FRAME_PRIOR[mentioned])
    for column, attribute in enumerate(ATTRIBUTES):
        for value in range(len(VALUES[attribute])):
            used = single.synonym[single.stated[:, column] == value, column]
            assert frequencies_match(used, scene.SYNONYM_PRIOR[attribute])


@pytest.mark.parametrize("view", ["single", "double"])
def test_the_sensor_is_a_linear_map_of_the_first_object_plus_gaussian_noise(view, request):
    scenes = request.getfixturevalue(view)
    hot = np.hstack([np.eye(len(VALUES[name]))[getattr(scenes, name)[:, 0]] for name in ATTRIBUTES])  # (N, 22)
    noise = (draw_sensors(scenes, seed=1) - hot @ scene.sensor_map()) / scene.SENSOR_NOISE
    np.testing.assert_allclose(noise.mean(0), 0, atol=ERRORS / np.sqrt(N))
    np.testing.assert_allclose(np.cov(noise.T), np.eye(16), atol=ERRORS * np.sqrt(2 / N))  # s.e. of a variance of one
    assert abs((noise**4).mean() - 3) < ERRORS * np.sqrt(96 / noise.size)  # kurtosis of a Gaussian, variance 105 - 9


def test_sensors_follow_from_seed_and_scene_in_any_order(single):
    some = Scenes(*(array[[7, 3, 500]] for array in single))
    np.testing.assert_array_equal(draw_sensors(some, seed=4), draw_sensors(single, seed=4)[[7, 3, 500]])
    assert np.abs(draw_sensors(some, seed=4) - draw_sensors(some, seed=5)).min() > 0


def test_a_third_object_is_refused():
    with pytest.raises(ValueError, match="not 3"):
        sample_scenes([0], split="test", objects=3)
