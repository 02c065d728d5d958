"""The splits: stratified counts by hand, disjoint, fixed by the seed, and the wall around test."""

import ast
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import pipeline
from pipeline.datasets import DataSettings, ImageSet, Splits, load_splits, load_test
from pipeline.datasets.loading import channel_moments
from pipeline.errors import UserError


class ToySettings(DataSettings):
    """Images of 1x1x2 pixels that hold their own number, class after class."""

    kind: Literal["toy"] = "toy"
    class_sizes: tuple[int, ...] = (10, 25)
    own_test: bool = True
    test_readable: bool = True
    pixel_added: int = 0

    def has_test_split(self):
        return self.own_test

    def read(self, split, progress):  # noqa: ARG002
        assert split == "train" or self.test_readable
        sizes = self.class_sizes if split == "train" else (1,) * len(self.class_sizes)
        number = np.arange(sum(sizes), dtype=np.uint16)
        images = np.stack([number >> 8, number & 255], axis=1).astype(np.uint8)
        images[0, 0] += self.pixel_added
        labels = np.repeat(np.arange(len(sizes)), sizes)
        return ImageSet(images[:, None, None], labels), tuple("abcdefgh"[: len(sizes)])


def numbers(images: ImageSet) -> set[int]:
    return {int(high) << 8 | int(low) for high, low in images.images[:, 0, 0]}


def counts(images: ImageSet) -> list[int]:
    return np.bincount(images.labels, minlength=2).tolist()


def parts(splits: Splits) -> list[ImageSet]:
    return [splits.train, splits.validation, splits.selection]


def test_counts_by_hand_with_a_test_split_of_its_own():
    splits = load_splits(ToySettings(validation_fraction=0.1, selection_fraction=0.2), seed=0)
    assert counts(splits.validation) == [1, 2]  # 10 and 25 times 0.1
    assert counts(splits.selection) == [2, 5]
    assert counts(splits.train) == [7, 18]


def test_counts_by_hand_when_the_test_is_carved_out():
    settings = ToySettings(own_test=False, validation_fraction=0.1, selection_fraction=0.2)
    splits = load_splits(settings, seed=0)
    assert counts(load_test(settings, seed=0)) == [2, 5]  # 0.2 of 10 and 25
    assert counts(splits.validation) == [1, 2]  # of the 8 and 20 that remain
    assert counts(splits.selection) == [2, 4]
    assert counts(splits.train) == [5, 14]


def test_every_class_keeps_its_share_within_one_image():
    settings = ToySettings(class_sizes=(7, 33, 190, 1000), validation_fraction=0.13)
    splits = load_splits(settings, seed=1)
    for part, fraction in [(splits.validation, 0.13), (splits.selection, 0.1)]:
        assert np.abs(counts(part) - fraction * np.array(settings.class_sizes)).max() < 1


@pytest.mark.parametrize("own_test", [True, False])
def test_the_splits_share_no_image_and_none_is_lost(own_test):
    settings = ToySettings(class_sizes=(100, 300), own_test=own_test)
    members = [numbers(part) for part in parts(load_splits(settings, seed=3))]
    if not own_test:
        members.append(numbers(load_test(settings, seed=3)))
    assert sum(map(len, members)) == 400
    assert set.union(*members) == set(range(400))


def test_the_seed_alone_decides_who_is_where():
    settings = ToySettings(own_test=False)
    first, again, other = (load_splits(settings, seed) for seed in (0, 0, 1))
    for one, two in zip(parts(first), parts(again), strict=True):
        np.testing.assert_array_equal(one.images, two.images)
    assert numbers(first.validation) != numbers(other.validation)
    assert numbers(load_test(settings, 0)) != numbers(load_test(settings, 1))


def test_images_keep_their_labels():
    splits = load_splits(ToySettings(), seed=0)
    for part in parts(splits):
        ids = part.images[:, 0, 0].astype(int) @ [256, 1]
        np.testing.assert_array_equal(part.labels, ids >= 10)


def test_train_images_takes_a_proportional_subset_and_touches_nothing_else():
    settings = ToySettings(own_test=False, selection_fraction=0.2)  # trains on 5 and 14
    whole, ten, four = (
        load_splits(settings.model_copy(update={"train_images": size}), 0) for size in (None, 10, 4)
    )
    assert counts(ten.train) == [3, 7]  # 2.63 and 7.37
    assert counts(four.train) == [1, 3]  # 1.05 and 2.95
    assert numbers(four.train) < numbers(ten.train) < numbers(whole.train)
    assert numbers(ten.validation) == numbers(whole.validation)
    assert numbers(ten.selection) == numbers(whole.selection)
    assert ten.digest == whole.digest


def test_more_train_images_than_there_are():
    with pytest.raises(UserError, match=r"30.* 29 training images"):
        load_splits(ToySettings(train_images=30), seed=0)


def test_train_images_that_leave_a_class_out():
    with pytest.raises(UserError, match="of class 'a'"):
        load_splits(ToySettings(class_sizes=(10, 200), train_images=5), seed=0)


def test_no_selection_when_its_fraction_is_zero():
    splits = load_splits(ToySettings(selection_fraction=0.0), seed=0)
    assert len(splits.selection) == 0
    assert splits.selection.images.shape == (0, 1, 1, 2)


def test_the_smallest_class_that_can_be_split():
    splits = load_splits(ToySettings(class_sizes=(3, 50)), seed=0)
    assert [counts(part)[0] for part in parts(splits)] == [1, 1, 1]
    with pytest.raises(UserError, match="class 'a' has 2 images") as error:
        load_splits(ToySettings(class_sizes=(2, 50)), seed=0)
    assert "every class needs an image in each split" in error.value.rule


def test_the_digest_is_of_the_pool_alone():
    def digest(seed=0, **settings):
        return load_splits(ToySettings(**settings), seed).digest

    assert len(digest()) == 16
    assert digest() == digest(seed=1) == digest(validation_fraction=0.3)
    assert len({digest(), digest(pixel_added=1), digest(class_sizes=(11, 24))}) == 3


def test_the_digest_leaves_carved_out_test_images_out():
    settings = ToySettings(own_test=False)
    in_test = [0 in numbers(load_test(settings, seed)) for seed in range(20)]
    assert len(set(in_test)) == 2
    for seed, is_test in enumerate(in_test):
        changed = settings.model_copy(update={"pixel_added": 1})
        same = load_splits(settings, seed).digest == load_splits(changed, seed).digest
        assert same == is_test


def test_channel_moments_by_hand():
    images = np.zeros((2, 2, 1, 1), np.uint8)
    images[1, 0], images[:, 1] = 255, 51
    mean, std = channel_moments(images)
    np.testing.assert_allclose(mean, [0.5, 0.2])
    np.testing.assert_allclose(std, [0.5, 1 / 255])  # a constant channel: the floor
    assert std.dtype == mean.dtype == np.float32


def test_channel_moments_are_those_of_the_whole_split(monkeypatch):
    monkeypatch.setattr("pipeline.datasets.loading._CHUNK", 3)
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 4, 5), dtype=np.uint8)
    mean, std = channel_moments(images)
    np.testing.assert_allclose(mean, images.mean((0, 2, 3)) / 255, rtol=1e-6)
    np.testing.assert_allclose(std, images.std((0, 2, 3)) / 255, rtol=1e-6)


# What is kept


class KeptSettings(ToySettings):
    """Toy images that say when they have changed."""

    version: int = 0

    def stamp(self):
        return self.version


@pytest.fixture
def reads(monkeypatch):
    """How often the source was read."""
    seen = []
    read = ToySettings.read

    def counted(self, split, progress):
        seen.append(split)
        return read(self, split, progress)

    monkeypatch.setattr(ToySettings, "read", counted)
    return seen


def same(one, other):
    assert (one.class_names, one.digest, one.source) == (
        other.class_names, other.digest, other.source
    )  # fmt: skip
    for part in ("train", "validation", "selection"):
        mine, others = getattr(one, part), getattr(other, part)
        np.testing.assert_array_equal(mine.images, others.images)
        np.testing.assert_array_equal(mine.labels, others.labels)
    np.testing.assert_array_equal(one.channel_mean, other.channel_mean)
    np.testing.assert_array_equal(one.channel_std, other.channel_std)


def test_splits_are_drawn_once_and_mapped_from_one_file(tmp_path, reads):
    settings = KeptSettings(cache=str(tmp_path), train_images=8)
    drawn, kept = (load_splits(settings, seed=0) for _ in range(2))
    same(kept, load_splits(ToySettings(train_images=8), seed=0))
    same(drawn, kept)
    assert len(reads) == 2, "once for what is kept, and once for what is not"
    for splits in (drawn, kept):
        file = splits.train.images
        while isinstance(file.base, np.ndarray):
            file = file.base
        assert isinstance(file, np.memmap)
    kept.train.images[:] = 0  # the process's own copy
    same(load_splits(settings, seed=0), drawn)


def test_who_knows_the_file_does_not_look_at_the_source(tmp_path, reads, monkeypatch):
    """As workers do: listing a large folder takes a second in each."""
    settings = KeptSettings(cache=str(tmp_path))
    drawn = load_splits(settings, seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(KeptSettings, "stamp", lambda _: pytest.fail("looked at"))
        known = load_splits(settings, seed=0, known=drawn.file)
    same(known, drawn)
    assert known.file == drawn.file
    assert len(reads) == 1
    assert load_splits(ToySettings(), seed=0).file is None
    assert known.folded().file is None, "these are other splits"


def test_a_file_of_other_splits_or_none_is_not_taken(tmp_path, reads):
    """Such as those of the study, by a follow-up that trains on fewer images."""
    settings = KeptSettings(cache=str(tmp_path))
    drawn = load_splits(settings, seed=0)
    fewer = load_splits(settings.model_copy(update={"train_images": 9}), seed=0, known=drawn.file)
    assert len(fewer.train) == 9 < len(drawn.train)
    other = load_splits(settings, seed=1, known=drawn.file)
    assert not np.array_equal(other.train.images, drawn.train.images)
    drawn.file.unlink()
    same(load_splits(settings, seed=0, known=drawn.file), drawn)
    assert len(reads) == 4


@pytest.mark.parametrize(
    "change", [{"version": 1}, {"train_images": 9}, {"validation_fraction": 0.3}]
)
def test_other_images_and_other_shares_are_drawn_anew(tmp_path, reads, change):
    settings = KeptSettings(cache=str(tmp_path), train_images=8)
    load_splits(settings, seed=0)
    for changed, seed in ((settings.model_copy(update=change), 0), (settings, 1)):
        before = len(reads)
        load_splits(changed, seed)
        assert len(reads) == before + 1


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_splits_are_drawn_anew(tmp_path, reads, suffix, damage):
    settings = KeptSettings(cache=str(tmp_path))
    before = load_splits(settings, seed=0)
    [file] = tmp_path.glob(f"*{suffix}")
    content = bytearray(file.read_bytes())
    images = np.concatenate([part.images for part in parts(before)])
    labels = np.concatenate([part.labels for part in parts(before)])
    held = images if suffix == ".npy" else labels
    content[content.index(held.tobytes())] ^= 1
    file.unlink()
    if damage != "remove":
        file.write_bytes(content if damage == "flip" else content[:-9])
    same(load_splits(settings, seed=0), before)
    assert len(reads) == 2
    same(load_splits(settings, seed=0), before)
    assert len(reads) == 2


def test_load_splits_never_reads_the_test_split():
    settings = ToySettings(test_readable=False)
    load_splits(settings, seed=0)
    with pytest.raises(AssertionError):
        load_test(settings, seed=0)


def test_only_the_evaluation_mentions_the_test_split():
    package = Path(pipeline.__file__).parent
    others = [
        path
        for path in package.rglob("*.py")
        if path.parent.name != "datasets" and path != package / "evaluation.py"
    ]
    assert len(others) > 3
    for path in others:
        for node in ast.walk(ast.parse(path.read_text())):
            mentioned = {getattr(node, key, None) for key in ("id", "attr", "name", "value")}
            assert "load_test" not in mentioned, f"{path}:{getattr(node, 'lineno', 0)}"
