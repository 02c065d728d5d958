"""Folders of images: what they become, their cache, and every way in which they can be wrong."""

import os
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets import ImageFolderSettings, image_cache, load_splits, load_test
from pipeline.datasets.image_decoding import decode
from pipeline.errors import UserError

COLOURS = {"blue": (0, 0, 200), "red": (200, 0, 0)}


def fill(folder: Path, count: int, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> None:
    """PNGs of one colour for each class of a split."""
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        image = Image.new("RGB", size, colour).convert(mode)
        for number in range(count):
            image.save(folder / name / f"{number}.png")


@pytest.fixture
def settings(tmp_path):
    """Ten images of 8x8 pixels in each of the classes blue and red, and no test split."""
    fill(tmp_path / "train", 10)
    return ImageFolderSettings(root=str(tmp_path), cache=str(tmp_path / "cache"), image_size=8)


@pytest.fixture
def no_decoding(monkeypatch):
    def decode(path, *_):
        raise AssertionError(f"decoded {path}")

    return lambda: monkeypatch.setattr(image_cache, "decode", decode)


def test_colours_and_labels(settings):
    splits = load_splits(settings, seed=0)
    assert splits.class_names == ("blue", "red")
    assert splits.image_shape == (3, 8, 8)
    assert [len(splits.train), len(splits.validation), len(splits.selection)] == [12, 2, 2]
    for image, label in zip(splits.train.images, splits.train.labels, strict=True):
        expected = np.array(list(COLOURS.values())[label])
        assert (image == expected[:, None, None]).all()
    assert len(load_test(settings, seed=0)) == 4


def test_auto_channels_are_grey_only_when_every_image_is(settings, tmp_path):
    for file in tmp_path.glob("train/*/*.png"):
        Image.open(file).convert("L").save(file)
    assert load_splits(settings, seed=0).image_shape == (1, 8, 8)
    Image.new("RGB", (8, 8)).save(tmp_path / "train/red/9.png")
    assert load_splits(settings, seed=0).image_shape == (3, 8, 8)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_on_request(settings, channels):
    splits = load_splits(settings.model_copy(update={"channels": channels}), seed=0)
    assert splits.image_shape == (channels, 8, 8)
    if channels == 1:  # ITU-R 601-2: 0.299 R, 0.114 B
        assert set(splits.train.images.flat) == {60, 23}


def test_the_middle_square_of_a_wide_image(tmp_path):
    image = Image.new("RGB", (96, 32), (255, 0, 0))
    image.paste((0, 255, 0), (32, 0, 64, 32))
    image.save(tmp_path / "wide.png")
    pixels = decode(str(tmp_path / "wide.png"), channels=3, size=8)
    assert pixels.shape == (3, 8, 8)
    assert pixels.flags.c_contiguous
    inside = pixels[:, :, 1:-1]  # the filter reaches a little beyond the edge
    assert (inside == np.array([0, 255, 0])[:, None, None]).all()


def test_shrinking_averages(tmp_path):
    checkerboard = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checkerboard).save(tmp_path / "board.png")
    pixels = decode(str(tmp_path / "board.png"), channels=1, size=8)
    assert abs(pixels.astype(int) - 127.5).max() <= 2  # every second pixel alone: 0 or 255


def test_an_image_of_the_right_size_keeps_every_pixel(tmp_path):
    original = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(original).save(tmp_path / "noise.png")
    pixels = decode(str(tmp_path / "noise.png"), channels=3, size=16)
    np.testing.assert_array_equal(pixels, original.transpose(2, 0, 1))


def test_16_bit_grey_keeps_its_range(tmp_path):
    levels = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    pixels = decode(str(tmp_path / "deep.png"), channels=1, size=8)
    np.testing.assert_array_equal(pixels[0], levels // 256)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_mode(tmp_path, mode, channels):
    path = tmp_path / "white.tif"
    Image.new("RGB", (9, 9), "white").convert(mode).save(path)
    assert (decode(str(path), channels, size=8) == 255).all()


def test_a_palette_with_transparency(tmp_path):
    image = Image.new("RGB", (8, 8), "white").quantize(2)
    image.save(tmp_path / "palette.png", transparency=b"\x80\x80")
    assert (decode(str(tmp_path / "palette.png"), channels=3, size=8) == 255).all()


def test_the_second_load_decodes_nothing(settings, no_decoding):
    first = load_splits(settings, seed=0)
    no_decoding()
    again = load_splits(settings, seed=0)
    assert again.digest == first.digest
    np.testing.assert_array_equal(again.train.images, first.train.images)
    # all of them decoded, and the splits
    kinds = sorted(path.suffix for path in Path(settings.cache).iterdir())
    assert kinds == [".npy", ".npy", ".npz"]


def test_an_edited_image_or_another_size_is_decoded_anew(settings, tmp_path):
    file = tmp_path / "train/red/0.bmp"
    digests, sizes = set(), set()
    for level in (1, 2):
        Image.new("RGB", (8, 8), (level, 0, 0)).save(file)
        sizes.add(file.stat().st_size)
        digests.add(load_splits(settings, seed=0).digest)
    assert len(digests) == 2
    assert len(sizes) == 1
    larger = settings.model_copy(update={"image_size": 16})
    assert load_splits(larger, seed=0).image_shape == (3, 16, 16)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "emptied"])
def test_a_damaged_cache_is_decoded_anew(settings, damage):
    digest = load_splits(settings, seed=0).digest
    files = sorted(Path(settings.cache).iterdir())
    for file in files:
        content = bytearray(file.read_bytes())
        content[-100] ^= 1
        file.write_bytes({"flipped": content, "truncated": content[:-50], "emptied": b""}[damage])
    assert load_splits(settings, seed=0).digest == digest
    assert sorted(Path(settings.cache).iterdir()) == files


def test_processes_decode_the_same_in_the_same_order(settings, tmp_path, monkeypatch):
    one = load_splits(settings, seed=0)
    monkeypatch.setattr(image_cache, "_CHUNK", 7)
    seen = []
    several = load_splits(
        settings.model_copy(update={"cache": str(tmp_path / "other")}),
        seed=0,
        progress=lambda *args: seen.append(args),
    )
    assert several.digest == one.digest
    assert seen == [("decoding images", done, 20) for done in (7, 14, 20)]


@pytest.mark.parametrize("chunk", [256, 7])
def test_a_truncated_jpeg_is_named_and_nothing_is_cached(settings, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(image_cache, "_CHUNK", chunk)
    file = tmp_path / "train/red/photo.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(UserError, match="truncated") as error:
        load_splits(settings, seed=0)
    assert error.value.where == str(file)
    assert list(Path(settings.cache).iterdir()) == []


def test_a_file_that_is_no_image_is_named(settings, tmp_path):
    file = tmp_path / "train/blue/0.png"
    file.write_text("not an image")
    with pytest.raises(UserError, match="cannot decode") as error:
        load_splits(settings, seed=0)
    assert error.value.where == str(file)


def test_a_link_to_nowhere_is_named(settings, tmp_path):
    file = tmp_path / "train/blue/link.png"
    file.symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match="No such file") as error:
        load_splits(settings, seed=0)
    assert error.value.where == str(file)


def test_other_files_are_ignored(settings, tmp_path):
    digest = load_splits(settings, seed=0).digest
    for name in ("readme.txt", ".hidden.png"):
        (tmp_path / "train/red" / name).write_text("not an image")
    (tmp_path / "train/.ipynb_checkpoints").mkdir()
    (tmp_path / "train/notes.txt").touch()
    assert load_splits(settings, seed=0).digest == digest


def test_the_test_folder_is_left_to_the_evaluation(settings, tmp_path):
    fill(tmp_path / "test", 2, mode="L", size=(20, 8))
    damaged = tmp_path / "test/red/1.png"
    intact = damaged.read_bytes()
    damaged.write_text("not an image")
    splits = load_splits(settings, seed=0)
    assert len(splits.train) == 16  # nothing carved out
    with pytest.raises(UserError, match="cannot decode"):
        load_test(settings, seed=0)
    damaged.write_bytes(intact)
    test = load_test(settings, seed=0)
    assert test.images.shape == (4, 3, 8, 8)  # the channels of the training images
    np.testing.assert_array_equal(test.labels, [0, 0, 1, 1])


def test_a_test_class_without_training_images(settings, tmp_path):
    fill(tmp_path / "test", 1)
    (tmp_path / "test/red").rename(tmp_path / "test/green")
    load_splits(settings, seed=0)  # which leaves the names of the test's folders alone
    with pytest.raises(UserError, match="'green' is in the test split and not in the training"):
        load_test(settings, seed=0)


def test_labels_of_a_test_split_that_lacks_a_class(settings, tmp_path):
    copytree(tmp_path / "train/red", tmp_path / "train/amber")
    fill(tmp_path / "test", 1)
    np.testing.assert_array_equal(load_test(settings, seed=0).labels, [1, 2])


def test_an_empty_class_folder(settings, tmp_path):
    (tmp_path / "train/green").mkdir()
    with pytest.raises(UserError, match="the class folder has no images") as error:
        load_splits(settings, seed=0)
    assert error.value.where.endswith("train/green")


@pytest.mark.parametrize("layout", ["nothing", "one class"])
def test_no_classes(tmp_path, layout):
    if layout == "one class":
        (tmp_path / "train/cat").mkdir(parents=True)
    with pytest.raises(UserError, match="class folders in") as error:
        load_splits(ImageFolderSettings(root=str(tmp_path)), seed=0)
    assert str(tmp_path / "train") in error.value.cure


def test_a_pipe_that_is_called_as_an_image_is_not_waited_for(settings, tmp_path):
    os.mkfifo(tmp_path / "train/red/pipe.png")
    with pytest.raises(UserError, match="is no file") as error:
        load_splits(settings, seed=0)
    assert error.value.where.endswith("pipe.png")


def test_a_class_folder_whose_name_is_no_text(settings, tmp_path):
    """It could not be registered with the champion, when all is trained."""
    (tmp_path / "train/gr\udcfcn").mkdir()  # Latin-1's "grün"
    with pytest.raises(UserError, match=r"the class folder 'gr\\udcfcn' is no text") as error:
        load_splits(settings, seed=0)
    str(error.value).encode()  # it can be printed
    assert "rename" in error.value.cure


def test_a_cache_that_cannot_be_written(settings, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(UserError, match="cannot write the image cache") as error:
        load_splits(settings, seed=0)
    assert "data.cache" in error.value.cure
