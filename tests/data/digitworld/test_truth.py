"""The closed forms against loops over the constants, enumeration of everything that can be said, and Monte Carlo."""

import itertools
import math

import numpy as np
import pytest

from clipib.data.digitworld import render, scene, truth
from clipib.data.digitworld.scene import ATTRIBUTES, PRIOR, VALUES, WORDS, Scenes, draw_sensors, sample_scenes
from clipib.data.digitworld.truth import sensor_caption_pmi, sensor_image_pmi, true_pmi

ROUNDING = 1e-12  # float64 sums of at most some 50000 terms of order one
ERRORS = 4  # standard errors


def captions_of_all_meanings():
    """One caption for each of the 495 meanings."""
    choices = ([None, *range(len(VALUES[name]))] for name in ATTRIBUTES)
    captions = []
    for digit, color, place in itertools.product(*choices):
        words = ["the"]
        words += [] if color is None else [VALUES["color"][color]]
        words += ["thing"] if digit is None else [VALUES["digit"][digit]]
        words += [] if place is None else ["in", "the", VALUES["place"][place]]
        captions.append(" ".join(words))
    return captions


MEANINGS = captions_of_all_meanings()


def says(attribute, stated, value):
    """Probability that a caption states this (or None) of an attribute with this true value."""
    mention, wrong = scene.MENTION_PROBABILITY[attribute], scene.WRONG_PROBABILITY[attribute]
    if stated is None:
        return 1 - mention
    return mention * (1 - wrong if stated == value else wrong / (len(PRIOR[attribute]) - 1))


def probability_of(meaning, digit, color, place):
    """Probability of a meaning given the true attributes of its object; the colour may be None, where it is grey."""
    colors = [(1.0, color)] if color is not None else list(zip(PRIOR["color"], range(8), strict=True))
    of_color = sum(weight * says("color", meaning.color, each) for weight, each in colors)
    return says("digit", meaning.digit, digit) * of_color * says("place", meaning.place, place)


def pairs_of_places():
    """Every way to draw two places in order, and its probability."""
    prior = PRIOR["place"]
    for first, second in itertools.permutations(range(4), 2):
        yield first, second, prior[first] * prior[second] / (1 - prior[first])


def prior_of(meaning, objects):
    """Probability of a meaning, summed over all attributes of the object that it may be about."""
    place = PRIOR["place"] if objects == 1 else np.zeros(4)
    if objects == 2:
        for first, second, chance in pairs_of_places():
            place[first] += chance / 2
            place[second] += chance / 2
    return sum(
        PRIOR["digit"][d] * PRIOR["color"][c] * place[p] * probability_of(meaning, d, c, p)
        for d, c, p in itertools.product(range(10), range(8), range(4))
    )


def shown_objects(scenes, row):
    columns = (array[row].tolist() for array in (scenes.digit, scenes.color, scenes.place, scenes.grey))
    return [(digit, None if grey else color, place) for digit, color, place, grey in zip(*columns, strict=True)]


@pytest.mark.parametrize("objects", [1, 2])
def test_pmi_agrees_with_loops_over_the_constants(objects):
    scenes = sample_scenes(np.arange(63), split="test", objects=objects, seed=1)
    assert scenes.grey.any()
    captions = [*render.write_captions(sample_scenes(np.arange(7), split="val", objects=objects)), "here is the thing"]
    pmi = true_pmi(scenes, captions)
    assert pmi.shape == (63, 8) and pmi.dtype == np.float64
    for column, caption in enumerate(captions):
        meaning = render.parse_caption(caption)
        prior = prior_of(meaning, objects)
        for row in range(63):
            each = [probability_of(meaning, *shown) for shown in shown_objects(scenes, row)]
            assert pmi[row, column] == pytest.approx(math.log(sum(each) / objects / prior), abs=ROUNDING)


@pytest.mark.parametrize("objects", [1, 2])
def test_the_mean_of_exp_pmi_over_captions_is_one_for_every_picture(objects):
    scenes = sample_scenes(np.arange(500), split="train", objects=objects)
    prior = [prior_of(render.parse_caption(caption), objects) for caption in MEANINGS]
    assert sum(prior) == pytest.approx(1, abs=ROUNDING) and len(set(MEANINGS)) == 495
    np.testing.assert_allclose(np.exp(true_pmi(scenes, MEANINGS)) @ prior, 1, rtol=ROUNDING)


def test_the_mean_of_exp_pmi_over_pictures_is_one_for_every_caption():
    """Over everything that one object can show: the other normalisation, which a wrong prior of grey would break."""
    digit, color, place = (x.ravel() for x in np.indices((10, 9, 4)))
    grey = color == 8
    blank = sample_scenes(np.arange(360), split="train")
    scenes = blank._replace(
        digit=digit[:, None], color=np.where(grey, 0, color)[:, None], place=place[:, None], grey=grey[:, None]
    )
    shown = np.append((1 - scene.GREY_PROBABILITY) * PRIOR["color"], scene.GREY_PROBABILITY)
    weight = PRIOR["digit"][digit] * shown[color] * PRIOR["place"][place]
    np.testing.assert_allclose(weight @ np.exp(true_pmi(scenes, MEANINGS)), 1, rtol=ROUNDING)


def test_frame_synonyms_and_nuisance_of_the_picture_change_no_pmi():
    scenes = sample_scenes(np.arange(20), split="test")
    other = scenes._replace(tint=(scenes.tint + 1) % 6, sample=scenes.sample[::-1], noise_key=scenes.noise_key + 1)
    plain = true_pmi(scenes, ["the red seven in the southeast"])
    np.testing.assert_array_equal(true_pmi(other, ["we see the crimson 7 in the se"]), plain)


def test_text_outside_the_grammar_is_named():
    scenes = sample_scenes([0], split="test")
    with pytest.raises(ValueError, match="a photo of a dog"):
        true_pmi(scenes, ["the seven", "a photo of a dog"])
    with pytest.raises(ValueError, match="a photo of a dog"):
        sensor_caption_pmi(draw_sensors(scenes), ["a photo of a dog"])


def test_shared_information_of_one_object_by_enumeration():
    total = 0.0
    for meaning in map(render.parse_caption, MEANINGS):
        prior = prior_of(meaning, 1)
        for d, c, p in itertools.product(range(10), [*range(8), None], range(4)):
            grey = scene.GREY_PROBABILITY
            chance = grey if c is None else (1 - grey) * PRIOR["color"][c]
            likelihood = probability_of(meaning, d, c, p)
            total += PRIOR["digit"][d] * chance * PRIOR["place"][p] * likelihood * math.log(likelihood / prior)
    assert truth.shared_information() == pytest.approx(total, abs=1e-10)  # 178200 terms


@pytest.mark.parametrize("objects", [1, 2])
def test_shared_information_is_the_mean_pmi_of_matching_pairs(objects):
    scenes = sample_scenes(np.arange(30_000), split="train", objects=objects, seed=5)
    captions = render.write_captions(scenes)
    own = np.concatenate(
        [
            np.diag(true_pmi(Scenes(*(array[part] for array in scenes)), captions[part]))
            for part in (slice(at, at + 1000) for at in range(0, 30_000, 1000))
        ]
    )
    error = own.std() / np.sqrt(len(own))
    assert abs(own.mean() - truth.shared_information(objects)) < ERRORS * error


def entropy(probabilities):
    return -sum(p * math.log(p) for p in probabilities if p > 0)


def test_entropies_of_one_object_by_enumeration():
    entropies = truth.entropies(1)
    latent = [d * c * p for d, c, p in itertools.product(*(PRIOR[name] for name in ATTRIBUTES))]
    meaning = [prior_of(render.parse_caption(caption), 1) for caption in MEANINGS]
    joint = [
        PRIOR["digit"][d] * PRIOR["color"][c] * PRIOR["place"][p] * probability_of(said, d, c, p)
        for said in map(render.parse_caption, MEANINGS)
        for d, c, p in itertools.product(range(10), range(8), range(4))
    ]
    shown = [
        d * (scene.GREY_PROBABILITY if c is None else (1 - scene.GREY_PROBABILITY) * c) * p
        for d, c, p in itertools.product(PRIOR["digit"], [*PRIOR["color"], None], PRIOR["place"])
    ]
    expected = {
        "attributes": entropy(latent),
        "shown": entropy(shown),
        "meaning": entropy(meaning),
        "attributes_given_caption": entropy(joint) - entropy(meaning),
        "shown_given_caption": entropy(shown) - truth.shared_information(),
        "meaning_given_image": entropy(meaning) - truth.shared_information(),
    }
    assert entropies._asdict() == pytest.approx(expected, abs=1e-10)  # 158400 terms


def test_entropies_of_two_objects_by_monte_carlo():
    """Every entropy is the mean of minus a log probability, here written out for one scene at a time."""
    scenes = sample_scenes(np.arange(4000), split="train", objects=2, seed=8)
    pair = {}
    for first, second, chance in pairs_of_places():
        key = min(first, second), max(first, second)
        pair[key] = pair.get(key, 0) + chance
    draws = {"attributes": [], "shown": [], "attributes_given_caption": []}
    for row, caption in enumerate(render.write_captions(scenes)):
        meaning = render.parse_caption(caption)
        objects = list(zip(scenes.digit[row], scenes.color[row], scenes.place[row], strict=True))
        place = math.log(pair[tuple(scenes.place[row].tolist())])
        digit = sum(math.log(PRIOR["digit"][d]) for d, _, _ in objects)
        color = [math.log(PRIOR["color"][c]) for _, c, _ in objects]
        grey = scenes.grey[row]
        keep = math.log(1 - scene.GREY_PROBABILITY)
        seen = sum(math.log(scene.GREY_PROBABILITY) if g else keep + x for g, x in zip(grey, color, strict=True))
        draws["attributes"].append(-place - digit - sum(color))
        draws["shown"].append(-place - digit - seen)
        likelihood = sum(probability_of(meaning, *each) for each in objects) / 2
        prior = truth.meaning_prior(2)[truth.index_meanings([caption])[0]]  # itself checked by the PMI above
        draws["attributes_given_caption"].append(-place - digit - sum(color) - math.log(likelihood / prior))
    entropies = truth.entropies(2)._asdict()
    for name, values in draws.items():
        assert abs(np.mean(values) - entropies[name]) < ERRORS * np.std(values) / np.sqrt(len(values)), name
    meaning = [prior_of(render.parse_caption(caption), 2) for caption in MEANINGS]
    assert entropies["meaning"] == pytest.approx(entropy(meaning), abs=ROUNDING)


@pytest.mark.parametrize("objects", [1, 2])
def test_the_entropy_of_the_caption_by_enumeration_of_all_texts(objects):
    prior = {render.parse_caption(caption): prior_of(render.parse_caption(caption), objects) for caption in MEANINGS}
    total = 0.0
    for text in render.grammar():
        meaning, frame, synonyms = render.derive_caption(text)
        chance = prior[meaning] * scene.FRAME_PRIOR[sum(value is not None for value in meaning)][frame]
        for name, synonym in zip(ATTRIBUTES, synonyms, strict=True):
            chance *= 1 if synonym is None else scene.SYNONYM_PRIOR[name][synonym]
        total -= chance * math.log(chance)
    nuisance = truth.nuisance_entropies(objects)
    assert total == pytest.approx(truth.entropies(objects).meaning + nuisance.text, abs=1e-10)
    assert nuisance.text == nuisance.frame + nuisance.synonym


@pytest.mark.parametrize("split", scene.SPLITS)
def test_the_private_entropy_of_the_picture_by_enumeration(split):
    labels = scene.load_samples()[1][np.sort(np.concatenate(scene.split_samples(split)))]
    each = [PRIOR["digit"][d] / np.sum(labels == d) for d in labels]  # of every sample
    one, two = (truth.nuisance_entropies(objects, split=split) for objects in (1, 2))
    assert one.sample == pytest.approx(entropy(each) - entropy(PRIOR["digit"]), abs=ROUNDING)
    assert two.sample == pytest.approx(2 * one.sample, abs=ROUNDING)
    assert one.tint == pytest.approx(entropy(scene.TINT_PRIOR), abs=ROUNDING)
    assert one.image == one.tint + one.sample


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_bayes_accuracy_is_reached_by_the_best_guess_from_what_is_read(attribute):
    scenes = sample_scenes(np.arange(20_000), split="test", seed=6)
    label = getattr(scenes, attribute)[:, 0]
    guess = np.where((attribute == "color") & scenes.grey[:, 0], PRIOR["color"].argmax(), label)
    expected = truth.bayes_accuracy(attribute)
    error = np.sqrt(expected * (1 - expected) / len(label))
    assert abs((guess == label).mean() - expected) <= ERRORS * error
    assert expected == (1 if attribute != "color" else pytest.approx(0.85 + 0.15 * 0.2))
    with pytest.raises(ValueError, match="size"):
        truth.bayes_accuracy("size")


def density(sensor, digit, color, place):
    """Density of a reading given the true attributes of the first object, up to a constant."""
    rows = scene.sensor_map()[[digit, 10 + color, 18 + place]]
    return math.exp(-float(((sensor - rows.sum(0)) ** 2).sum()) / (2 * scene.SENSOR_NOISE**2))


def worlds(objects):
    """All attributes of the first object, the place of the second (or None), and their probability."""
    places = [(p, None, PRIOR["place"][p]) for p in range(4)]
    if objects == 2:
        places = [(min(a, b), max(a, b), chance) for a, b, chance in pairs_of_places()]
    for d, c, (place, other, chance) in itertools.product(range(10), range(8), places):
        yield d, c, place, other, PRIOR["digit"][d] * PRIOR["color"][c] * chance


@pytest.mark.parametrize("objects", [1, 2])
def test_sensor_pmi_agrees_with_loops_over_all_worlds(objects):
    scenes = sample_scenes(np.arange(30), split="test", objects=objects, seed=3)
    grey_and_not = [int(np.flatnonzero(scenes.grey[:, 0])[0]), int(np.flatnonzero(~scenes.grey[:, 0])[0])]
    scenes = Scenes(*(array[[*grey_and_not, 1]] for array in scenes))
    sensors = draw_sensors(scenes, seed=3)
    captions = ["the red seven in the southeast", "look at the 3 in the nw", "the thing", "here is the pink thing"]
    of_captions, of_images = sensor_caption_pmi(sensors, captions, objects), sensor_image_pmi(sensors, scenes)
    assert of_captions.shape == (3, 4) and of_images.shape == (3, 3)
    everything = list(worlds(objects))
    for row, sensor in enumerate(sensors):
        evidence = [chance * density(sensor, d, c, p) for d, c, p, _, chance in everything]
        for column, caption in enumerate(captions):
            meaning = render.parse_caption(caption)
            joint = 0.0
            for (d, c, p, other, _), weight in zip(everything, evidence, strict=True):
                likelihood = probability_of(meaning, d, c, p)
                if objects == 2:  # the digit of the other object is anything, its colour too
                    digits = enumerate(PRIOR["digit"])
                    second = sum(chance * probability_of(meaning, digit, None, other) for digit, chance in digits)
                    likelihood = (likelihood + second) / 2
                joint += weight * likelihood
            expected = math.log(joint / sum(evidence) / prior_of(meaning, objects))
            assert of_captions[row, column] == pytest.approx(expected, abs=1e-10)  # quotients of sums of 960 terms
        for column in range(3):
            d, c, p = shown_objects(scenes, column)[0]
            colors = [(1.0, c)] if c is not None else list(zip(PRIOR["color"], range(8), strict=True))
            expected = math.log(sum(weight * density(sensor, d, each, p) for weight, each in colors) / sum(evidence))
            assert of_images[row, column] == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("objects", [1, 2])
def test_sensor_pmi_normalises_over_captions(objects):
    sensors = draw_sensors(sample_scenes(np.arange(63), split="test", objects=objects))
    prior = [prior_of(render.parse_caption(caption), objects) for caption in MEANINGS]
    np.testing.assert_allclose(np.exp(sensor_caption_pmi(sensors, MEANINGS, objects)) @ prior, 1, rtol=1e-11)


@pytest.mark.parametrize("objects", [1, 2])
def test_sensor_pmi_normalises_over_independent_sensors(objects):
    """E over readings of exp(PMI) is 1 for every caption and every picture."""
    sensors = draw_sensors(sample_scenes(np.arange(20_000), split="train", objects=objects, seed=4), seed=4)
    scenes = sample_scenes(np.arange(12), split="test", objects=objects)
    captions = render.write_captions(scenes)
    for pmi in (sensor_caption_pmi(sensors, captions, objects), sensor_image_pmi(sensors, scenes)):
        ratio = np.exp(pmi)
        assert np.all(np.abs(ratio.mean(0) - 1) < ERRORS * ratio.std(0) / np.sqrt(len(ratio)))


@pytest.mark.parametrize("objects", [1, 2])
@pytest.mark.parametrize("view", ["caption", "image"])
def test_sensor_information_is_the_mean_pmi_of_matching_pairs(view, objects):
    estimate = truth.sensor_information(view, objects, samples=4000, seed=1)
    scenes = sample_scenes(np.arange(4000), split="train", objects=objects, seed=2)
    sensors, captions = draw_sensors(scenes, seed=2), render.write_captions(scenes)
    own = []
    for part in (slice(at, at + 500) for at in range(0, 4000, 500)):
        some = Scenes(*(array[part] for array in scenes))
        if view == "caption":
            own.append(np.diag(sensor_caption_pmi(sensors[part], captions[part], objects)))
        else:
            own.append(np.diag(sensor_image_pmi(sensors[part], some)))
    own = np.concatenate(own)
    error = np.hypot(estimate.standard_error, own.std() / np.sqrt(len(own)))
    assert abs(estimate.value - own.mean()) < ERRORS * error
    assert 0 < estimate.standard_error < 0.03


def test_what_the_sensor_shares_with_a_caption_is_within_what_the_attributes_share():
    for objects in (1, 2):
        estimate = truth.sensor_information("caption", objects, samples=2000)
        assert estimate.value < truth.attribute_information(objects)
    with pytest.raises(ValueError, match="sound"):
        truth.sensor_information("sound")


def test_sensors_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"not \(3, 8\)"):
        sensor_caption_pmi(np.zeros((3, 8)), ["the thing"])


def test_the_tables_cover_every_word():
    assert truth.meaning_given_shown().shape == (360, 495) and all(len(WORDS[n]) == len(PRIOR[n]) for n in ATTRIBUTES)
    for table in (truth.meaning_given_latent(), truth.meaning_given_shown(), truth.shown_given_latent()):
        np.testing.assert_allclose(table.sum(1), 1, rtol=ROUNDING)
