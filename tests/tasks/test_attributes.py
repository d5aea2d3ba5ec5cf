import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import mutual_info_score

from clipib.data.digitworld.render import derive_captions, read_scenes
from clipib.data.digitworld.scene import ATTRIBUTES, PRIOR, VALUES, load_samples, split_samples
from clipib.data.digitworld.truth import entropies, statement_given_value
from clipib.data.load import load_dataset
from clipib.data.table import load_table
from clipib.embeddings.encode import embed_images, embed_texts
from clipib.embeddings.store import Store
from clipib.errors import UserError
from clipib.models.load import load_model
from clipib.tasks.attributes import PARAPHRASES, column_attributes, digitworld_attributes, made_attributes


@pytest.fixture(scope="module")
def worlds():
    """One object and two, by number; large enough for entropies to a hundredth of a nat."""
    return {objects: load_dataset(f"digitworld:objects={objects}+n=20000") for objects in (1, 2)}


def by_name(dataset):
    return {attribute.name: attribute for attribute in digitworld_attributes(dataset).attributes}


def entropy_nats(labels):
    """Plug-in entropy, and its standard error: the spread of -log p over the square root of n."""
    shares = np.bincount(labels) / len(labels)
    surprise = -np.log(shares[labels])
    return surprise.mean(), surprise.std() / np.sqrt(len(labels))


def given_codes(attribute):
    return np.zeros(len(attribute.rows), dtype=int) if attribute.given is None else attribute.given.argmax(1)


# --- digitworld


@pytest.mark.parametrize("objects", [1, 2])
def test_image_labels_are_what_the_pictures_show(objects):
    """Read back from the pixels: tint, and the first object's digit, colour and place."""
    dataset = load_dataset(f"digitworld:objects={objects}+n=200+seed=4")
    found = by_name(dataset)
    shown = read_scenes(np.stack([dataset.images.picture(i) for i in range(200)]))
    assert found["tint"].labels.tolist() == [s.tint for s in shown] and len(found["tint"].classes) == 6
    for k, name in enumerate(ATTRIBUTES[: 4 - objects]):
        a = found[name]
        assert (a.side, a.kind, a.classes) == ("image", "unmentioned", VALUES[name])
        rows, labels = np.concatenate([a.rows, a.more_rows]), np.concatenate([a.labels, a.more_labels])
        assert labels.tolist() == [shown[i].objects[0][k] for i in rows]
        assert sorted(rows) == [i for i, s in enumerate(shown) if s.objects[0][1] is not None]  # not grey, each once


def test_text_labels_are_how_the_captions_arise():
    dataset = load_dataset("digitworld:n=200+seed=4")
    found = by_name(dataset)
    frame, value, synonym = derive_captions(dataset.captions)
    assert found["frame"].labels.tolist() == frame.tolist() and found["frame"].side == "text"
    assert given_codes(found["frame"]).tolist() == (value >= 0).sum(1).tolist()
    assert found["synonym"].rows.tolist() == np.flatnonzero(value[:, 0] >= 0).tolist()
    for row, label in zip(found["synonym"].rows, found["synonym"].labels):
        numeral = any(character.isdecimal() for character in dataset.captions[row])
        assert label == numeral == synonym[row, 0]


def test_unmentioned_is_what_the_own_caption_leaves_out():
    dataset = load_dataset("digitworld:n=500")
    value = derive_captions(dataset.captions)[1]
    found = by_name(dataset)
    for k, name in enumerate(ATTRIBUTES):
        assert (value[found[name].rows, k] == -1).all() and (value[found[name].more_rows, k] >= 0).all()
    two = load_dataset("digitworld:objects=2+n=500")
    scenes, attribute = two.world.scenes, by_name(two)["color"]
    about_the_other = scenes.described[attribute.rows] == 1
    assert about_the_other.mean() > 0.5 and not scenes.mention[attribute.rows[~about_the_other], 1].any()
    assert (scenes.described[attribute.more_rows] == 0).all() and scenes.mention[attribute.more_rows, 1].all()


@pytest.mark.parametrize("objects", [1, 2])
def test_floors_are_the_entropies_of_drawn_labels(worlds, objects):
    """Four standard errors, after the plug-in's bias of (cells - values of given) / 2n."""
    for name, attribute in by_name(worlds[objects]).items():
        labels, n = attribute.labels, len(attribute.labels)
        given = given_codes(attribute)
        joint, error = entropy_nats(given * 100 + labels)
        found = joint - entropy_nats(given)[0]
        bias = (given.max() + 1) * (len(attribute.classes) - 1) / (2 * n)
        assert found + bias == pytest.approx(attribute.entropy_floor_nats, abs=4 * error + 1e-4), name


def test_floors_add_up_to_the_entropy_that_a_caption_leaves_open():
    """H(attributes | caption) is the mean over what is said of each: the floor where nothing is said."""
    found = digitworld_attributes(load_dataset("digitworld:n=500"))
    floors = {a.name: a.entropy_floor_nats for a in found.attributes}
    total = 0.0
    for name in ATTRIBUTES:
        joint = PRIOR[name][:, None] * statement_given_value(name)  # (K, K + 1)
        posterior = joint / joint.sum(0)
        open_nats = -np.where(posterior > 0, posterior * np.log(posterior), 0).sum(0)
        assert open_nats[0] == pytest.approx(floors[name], abs=1e-12)
        total += joint.sum(0) @ open_nats
    assert total == pytest.approx(entropies(1).attributes_given_caption, abs=1e-10)
    assert found.attributes_given_caption_nats == entropies(1).attributes_given_caption
    two = digitworld_attributes(load_dataset("digitworld:objects=2+n=50")).attributes_given_caption_nats
    assert two == entropies(2).attributes_given_caption


@pytest.mark.parametrize("objects", [1, 2])
def test_no_attribute_says_anything_of_the_other_side(worlds, objects):
    """Plug-in information with what is stated or shown, given `given`: 2n of it is chi-square where there is none.

    Its mean is the freedom f of the cells, its variance 2 f; five standard deviations.
    """
    dataset = worlds[objects]
    scenes = dataset.world.scenes
    for name, attribute in by_name(dataset).items():
        if attribute.side == "image":
            others = [*derive_captions(dataset.captions)[1].T, scenes.frame]
        else:
            others = [scenes.digit[:, 0], scenes.color[:, 0], scenes.place[:, 0], scenes.tint]
        for other in others:
            other, statistic, freedom = other[attribute.rows], 0.0, 0
            for group in np.unique(given := given_codes(attribute)):
                a, b = attribute.labels[given == group], other[given == group]
                statistic += 2 * len(a) * mutual_info_score(a, b)
                freedom += (len(np.unique(a)) - 1) * (len(np.unique(b)) - 1)
            assert statistic < freedom + 5 * np.sqrt(2 * freedom) + 1e-9, (name, statistic, freedom)


def test_the_frame_follows_the_number_of_mentions_and_so_comes_with_it(worlds):
    frame = by_name(worlds[1])["frame"]
    assert mutual_info_score(frame.labels, given_codes(frame)) > 0.05
    assert frame.given.shape == (20_000, 4) and (frame.given.sum(1) == 1).all()


def test_stroke_halves_the_samples_of_each_digit(worlds):
    stroke, scenes = by_name(worlds[1])["stroke"], worlds[1].world.scenes
    ink = load_samples()[0].sum((1, 2))
    for digit, pool in enumerate(split_samples("test")):
        own = scenes.digit[:, 0] == digit
        assert stroke.labels[own].tolist() == (ink[scenes.sample[own, 0]] > np.median(ink[pool])).tolist()
        assert 0.4 < stroke.labels[own].mean() < 0.6
        assert (stroke.given[own].argmax(1) == digit).all()


def test_more_rows_follow_the_same_law(worlds):
    """Shares of the values where the caption tells them and where it does not: five standard errors of the smaller."""
    for name in ATTRIBUTES:
        a = by_name(worlds[1])[name]
        fewer, more = (
            np.bincount(labels, minlength=len(a.classes)) / len(labels) for labels in (a.labels, a.more_labels)
        )
        assert (np.abs(fewer - more) < 5 * np.sqrt(PRIOR[name] / len(a.labels))).all()
        assert not set(a.rows) & set(a.more_rows)


def test_what_is_left_out_has_a_reason():
    assert list(digitworld_attributes(load_dataset("digitworld:n=500")).skipped) == ["sample"]
    two = digitworld_attributes(load_dataset("digitworld:objects=2+n=500"))
    assert set(two.skipped) == {"sample", "place"} and "place" not in {a.name for a in two.attributes}
    few = digitworld_attributes(load_dataset("digitworld:n=3"))
    assert "digit" in few.skipped and all(len(set(a.labels)) > 1 for a in few.attributes)
    assert set(few.skipped) | {a.name for a in few.attributes} == {
        "sample",
        "tint",
        "stroke",
        "frame",
        "synonym",
        *ATTRIBUTES,
    }


def test_a_part_keeps_its_labels():
    whole = load_dataset("digitworld:n=300")
    indices = np.random.default_rng(0).permutation(300)[:200]
    a, b = by_name(whole), by_name(whole.take(indices))
    for name in a:
        labels = dict(zip(a[name].rows.tolist(), a[name].labels.tolist()))
        assert [labels[indices[row]] for row in b[name].rows] == b[name].labels.tolist()


def test_only_digitworld_has_a_known_truth(table):
    with pytest.raises(ValueError, match="expected a digitworld data set, got"):
        digitworld_attributes(table()[0])


# --- columns of a table


@pytest.fixture
def table(tmp_path):
    """A function that writes a table of pictures a.png to f.png, and gives its data set and path."""
    for i, name in enumerate("abcdef"):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")

    def write(text="image,caption\na.png,one\nb.png,two\n", **options):
        (tmp_path / "t.csv").write_text(text)
        return load_table(tmp_path / "t.csv", split="test", **options), tmp_path / "t.csv"

    return write


CAMERAS = """image,caption,camera,year,tone,split
a.png,one,canon,10,dry,test
a.png,two,,10,warm,test
b.png,three,leica,9,dry,test
a.png,none,zeiss,8,dry,train
c.png,four,canon,9,,test
d.png,"['five', 'six']",,10,warm,test
"""


def test_columns_give_labels_by_image_and_by_caption(table):
    dataset, path = table(CAMERAS)
    camera, year, tone = column_attributes(dataset, path, ["camera", "unmentioned:year", "text:tone"])
    assert (camera.name, camera.side, camera.kind) == ("camera", "image", "nuisance")
    assert camera.classes == ("canon", "leica")
    assert camera.rows.tolist() == [0, 1, 2] and camera.labels.tolist() == [0, 1, 0]  # nobody knows that of d.png
    assert (year.side, year.kind, year.classes) == ("image", "unmentioned", ("9", "10"))
    assert year.labels.tolist() == [1, 0, 0, 1] and year.labels.dtype == np.int64
    assert (tone.side, tone.kind, tone.classes) == ("text", "nuisance", ("dry", "warm"))
    assert [dataset.captions[row] for row in tone.rows] == ["one", "two", "three", "five", "six"]
    assert tone.labels.tolist() == [0, 1, 0, 1, 1] and tone.entropy_floor_nats is None


def test_a_sample_of_the_images_finds_its_own_rows(table):
    dataset, path = table(CAMERAS)
    part = dataset.take(np.array([3, 1, 0]))
    (year,) = column_attributes(part, path, ["year"])
    assert year.rows.tolist() == [0, 1, 2] and year.labels.tolist() == [1, 0, 1]
    (tone,) = column_attributes(part, path, ["unmentioned:text:tone"])
    assert [part.captions[row] for row in tone.rows] == ["five", "six", "three", "one", "two"]
    assert tone.labels.tolist() == [1, 1, 0, 0, 1] and tone.kind == "unmentioned"


def test_prefixes_in_any_order_and_a_column_of_that_very_name(table):
    dataset, path = table("image;caption;text:tone\na.png;x;dry\nb.png;y;wet\nc.png;z;dry\n")
    (plain,) = column_attributes(dataset, path, ["text:tone"])
    assert (plain.name, plain.side) == ("text:tone", "image")
    (both,) = column_attributes(dataset, path, ["text: unmentioned:text:tone"])
    assert (both.side, both.kind, both.labels.tolist()) == ("text", "unmentioned", [0, 1, 0])


def test_columns_of_a_table_whose_columns_were_named(table):
    options = {"image_column": "scan", "caption_column": "words", "label_column": "", "separator": "|"}
    dataset, path = table("scan|words|pen\na.png|x|1\nb.png|y|2\nc.png|z|2\n", **options)
    (pen,) = column_attributes(dataset, path, ["text:pen"], options=options)
    assert pen.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "columns, message, hint",
    [
        (["camra"], "Unknown attribute column 'camra'. Did you mean 'camera'?", "'camera', 'year'"),
        (["unmentioned:camra"], "'camra'. Did you mean 'camera'", ""),
        (["text"], "Unknown attribute column 'text'", ""),
        (["text:"], "Unknown attribute column ''", ""),
        (["split"], "the one value 'test' for all 4 images", "two values or more"),
        (["image"], "another value for each of 4 images", "a few classes"),
        (["tone"], "image 'a.png' has two values of 'tone': 'dry' and 'warm'", "Write text:tone"),
        (["year", "camra"], "'camra'", ""),
    ],
)
def test_column_mistakes_say_what_to_do(table, columns, message, hint):
    dataset, path = table(CAMERAS)
    with pytest.raises(UserError, match=message) as error:
        column_attributes(dataset, path, columns)
    assert hint in error.value.hint


def test_a_blank_column_a_doubled_caption_and_a_strange_table(table, tmp_path):
    dataset, path = table("image,caption,x,y\na.png,one,,1\na.png,one,,2\nb.png,two,,1\n")
    with pytest.raises(UserError, match="blank for all images"):
        column_attributes(dataset, path, ["x"])
    with pytest.raises(UserError, match="caption 'one' has two values of 'y': '1' and '2'"):
        column_attributes(dataset, path, ["text:y"])
    (tmp_path / "other.csv").write_text("image,y\nb.png,1\n")
    with pytest.raises(UserError, match=r"1 of 2 images of .* are not in .*other.csv'; the first is 'a.png'"):
        column_attributes(dataset, tmp_path / "other.csv", ["y"])
    with pytest.raises(UserError, match="'text:y' is to describe captions, but .* has none"):
        column_attributes(dataset.changed(captions=None, image_of_caption=None), path, ["text:y"])
    with pytest.raises(UserError, match="another value for each of 2 captions"):
        column_attributes(*table(), ["text:caption"])


# --- made ones


def test_altered_pictures_are_what_their_labels_say(table):
    rows = [f"{name}.png,caption {name}" for name in "abcdef"]
    dataset, _ = table("\n".join(["image,caption", *rows]))
    seen = {"flip": set(), "crop": set(), "brightness": set()}
    for seed in range(4):
        made = made_attributes(dataset, seed)
        value = {a.name: [a.classes[k] for k in a.labels] for a in made.attributes}
        for i in range(6):
            pixels = np.asarray(dataset.images.open(i)).astype(float)  # (12, 16, 3)
            pixels = pixels[:, ::-1] if value["flip"][i] == "mirrored" else pixels
            pixels = pixels[1:10, :12] if value["crop"][i] == "left" else pixels[1:10, 4:]
            factor = {"darker": 0.6, "as it is": 1, "brighter": 1.4}[value["brightness"][i]]
            assert np.array_equal(np.asarray(made.images.images.open(i)), np.minimum(255, np.rint(factor * pixels)))
        for name in seen:
            seen[name] |= set(value[name])
    assert [len(values) for values in seen.values()] == [2, 2, 3]


def test_altered_data_sets_hold_nothing_that_is_no_longer_true():
    dataset = load_dataset("digitworld/digit:n=40", need="label")
    made = made_attributes(dataset, 0)
    assert (made.images.labels, made.images.captions, made.images.world) == (None, None, None)
    assert made.texts.world is None and np.array_equal(made.texts.image_of_caption, dataset.image_of_caption)
    assert made.images.images.ids == dataset.images.ids and made.texts.keys == dataset.keys
    assert made.images.take(np.arange(3)).keys == made.images.keys[:3]  # as unreadable ones are left out
    assert made_attributes(dataset.changed(captions=None, image_of_caption=None), 0).texts is None


def test_captions_stand_in_the_frame_that_their_labels_say():
    dataset = load_dataset("digitworld:n=40").changed(captions=tuple(f"{{{i}}} things" for i in range(40)))
    made = made_attributes(dataset, 1)
    paraphrase = made.attributes[-1]
    assert (paraphrase.name, paraphrase.side, paraphrase.kind) == ("paraphrase", "text", "nuisance")
    assert set(paraphrase.labels) == set(range(len(PARAPHRASES)))
    for k, before, after in zip(paraphrase.labels, dataset.captions, made.texts.captions):
        start, end = PARAPHRASES[k].split("{c}")
        assert after == start + before + end
        assert [p for p in PARAPHRASES[1:] if after.startswith(p.split("{c}")[0])] == ([PARAPHRASES[k]] if k else [])


def test_made_values_are_uniform_and_independent():
    """Chi-square of each and of each pair, below freedom + 5 standard deviations."""
    attributes = made_attributes(load_dataset("digitworld:n=4000"), 7).attributes
    assert [a.name for a in attributes] == ["flip", "crop", "brightness", "paraphrase"]
    for a in attributes:
        k = len(a.classes)
        assert a.entropy_floor_nats == pytest.approx(np.log(k), abs=1e-12)
        assert ((np.bincount(a.labels, minlength=k) - 4000 / k) ** 2).sum() * k / 4000 < k - 1 + 5 * np.sqrt(2 * k)
        for b in (b for b in attributes if b.name < a.name):
            freedom = (k - 1) * (len(b.classes) - 1)
            assert 8000 * mutual_info_score(a.labels, b.labels) < freedom + 5 * np.sqrt(2 * freedom)


def test_equal_captions_of_different_images_draw_for_themselves():
    """Else the frame would be a function of the caption, and so say something of the image."""
    dataset = load_dataset("digitworld:n=60").changed(captions=("a thing",) * 60)
    assert len(set(made_attributes(dataset, 0).attributes[-1].labels)) == len(PARAPHRASES)


def test_values_hang_on_seed_and_content_not_on_company():
    dataset = load_dataset("digitworld:n=100")
    first, again, other = (made_attributes(dataset, seed) for seed in (0, 0, 1))
    indices = np.random.default_rng(0).permutation(100)[:30]
    part = made_attributes(dataset.take(indices), 0)
    for a, b, c, d in zip(first.attributes, again.attributes, other.attributes, part.attributes):
        assert a.labels.tolist() == b.labels.tolist() != c.labels.tolist()
        assert a.labels[indices].tolist() == d.labels.tolist()
    assert first.images.keys == again.images.keys and part.images.keys == [first.images.keys[i] for i in indices]
    assert part.texts.captions == tuple(first.texts.captions[i] for i in indices)


def test_keys_are_those_of_the_values_drawn():
    """The same alterations under another seed are the same key; other ones are another key, and never the picture's."""
    dataset = load_dataset("digitworld:n=50")
    a, b = made_attributes(dataset, 0), made_attributes(dataset, 1)
    drawn = [np.stack([x.labels for x in made.attributes[:3]], 1) for made in (a, b)]
    same = (drawn[0] == drawn[1]).all(1)
    assert [x == y for x, y in zip(a.images.keys, b.images.keys)] == same.tolist() and 0 < same.sum() < 50
    assert not set(a.images.keys) & set(dataset.keys)


def test_altered_ones_are_encoded_once_beside_the_others(tmp_path):
    """A random `tiny`: new rows in the store, each the embedding of the altered picture or caption itself."""
    model, store = load_model("tiny", "none", device="cpu"), Store(tmp_path / "c")
    dataset = load_dataset("digitworld:n=24")
    plain = embed_images(model, dataset, store=store)
    made = made_attributes(dataset, 0)
    first, second = embed_images(model, made.images, store=store), embed_images(model, made.images, store=store)
    assert (first.n_encoded, second.n_encoded) == (24, 0) and np.array_equal(first.array, second.array)
    assert (np.abs(first.array - plain.array).max(1) > 1e-3).all()
    texts = embed_texts(model, dataset.captions, store=store), embed_texts(model, made.texts.captions, store=store)
    kept = made.attributes[-1].labels == 0
    moved = np.abs(texts[0].array - texts[1].array).max(1) > 1e-3
    assert moved.tolist() == (~kept).tolist()
    assert embed_images(model, dataset, store=store).n_encoded == 0


def test_classes_can_be_written_as_json():
    made = made_attributes(load_dataset("digitworld:n=20"), 0)
    found = digitworld_attributes(load_dataset("digitworld:n=500"))
    for a in (*made.attributes, *found.attributes):
        json.dumps([a.name, a.side, a.kind, a.classes, a.entropy_floor_nats])
        assert a.labels.dtype == np.int64 and a.rows.dtype == np.int64 and len(a.labels) == len(a.rows)
        assert a.labels.max() < len(a.classes)
