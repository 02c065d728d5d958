"""Downloading and verifying, against archives of the same format served on the loopback.

Only the addresses and checksums that torchvision publishes are replaced: this machine stands in
for the hosts. The code that downloads, unpacks and reads is the one that users run.
"""

import gzip
import hashlib
import io
import pickle
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST

from pipeline.datasets import SOURCES, load_splits, load_test
from pipeline.errors import UserError


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def site(tmp_path):
    """A folder, and the address that it is served at."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def cifar_batch(label_key: str, size: int, brightness: int) -> dict[str, object]:
    """Images of two classes in turn; image i has red i, green its label, blue the brightness."""
    labels = np.arange(size) % 2
    planes = np.stack([np.arange(size), labels, np.full(size, brightness)], axis=1)
    return {"data": np.repeat(planes, 1024, axis=1).astype(np.uint8), label_key: labels.tolist()}


def publish_cifar(monkeypatch, site, dataset, label_key):
    folder, address = site
    meta = {dataset.meta["key"]: ["cat", "dog"]}
    files = {dataset.meta["filename"]: meta}
    files |= {name: cifar_batch(label_key, 20, 1) for name, _ in dataset.train_list}
    files |= {name: cifar_batch(label_key, 6, 2) for name, _ in dataset.test_list}
    checksums = {}
    with tarfile.open(folder / dataset.filename, "w:gz") as archive:
        for name, content in files.items():
            raw = pickle.dumps(content, protocol=2)
            checksums[name] = hashlib.md5(raw).hexdigest()
            entry = tarfile.TarInfo(f"{dataset.base_folder}/{name}")
            entry.size = len(raw)
            archive.addfile(entry, io.BytesIO(raw))
    for attribute in ("train_list", "test_list"):
        names = [name for name, _ in getattr(dataset, attribute)]
        monkeypatch.setattr(dataset, attribute, [[name, checksums[name]] for name in names])
    monkeypatch.setattr(
        dataset, "meta", dataset.meta | {"md5": checksums[dataset.meta["filename"]]}
    )
    monkeypatch.setattr(dataset, "url", address + dataset.filename)
    monkeypatch.setattr(dataset, "tgz_md5", md5(folder / dataset.filename))


@pytest.fixture
def cifar10(monkeypatch, site, tmp_path):
    """Settings for a CIFAR-10 of 100 + 6 images, not downloaded yet."""
    publish_cifar(monkeypatch, site, CIFAR10, "labels")
    return SOURCES["cifar10"](root=str(tmp_path / "data"))


@pytest.fixture
def fashion(monkeypatch, site, tmp_path):
    """Settings for a Fashion-MNIST of 50 + 10 images, not downloaded yet."""
    folder, address = site
    for name, _ in FashionMNIST.resources:
        size = 50 if name.startswith("train") else 10
        labels = (np.arange(size) % 10).astype(np.uint8)
        body = bytes(8) + labels.tobytes()
        if "images" in name:
            body = bytes(16) + np.repeat(labels, 28 * 28).tobytes()
        (folder / name).write_bytes(gzip.compress(body))
    resources = [(name, md5(folder / name)) for name, _ in FashionMNIST.resources]
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    monkeypatch.setattr(FashionMNIST, "mirrors", [address])
    return SOURCES["fashion_mnist"](root=str(tmp_path / "data"))


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_cifar10_is_downloaded_once_and_read_whole(cifar10, site, capfd):
    seen = []
    splits = load_splits(cifar10, seed=0, progress=lambda *args: seen.append(args))
    archive = site[0] / CIFAR10.filename
    size = archive.stat().st_size
    assert seen[-1] == ("downloading cifar-10-python.tar.gz", size, size)
    assert capfd.readouterr() == ("", "")

    assert splits.class_names == ("cat", "dog")
    assert splits.image_shape == (3, 32, 32)
    assert [len(splits.train), len(splits.validation), len(splits.selection)] == [80, 10, 10]
    for label, image in zip(splits.train.labels, splits.train.images, strict=True):
        assert image[0].min() == image[0].max()  # planes, not interleaved colours
        assert image[0, 0, 0] % 2 == label
        assert (image[1] == label).all()
        assert (image[2] == 1).all()

    archive.unlink()  # off line from here on
    test = load_test(cifar10, seed=0)
    np.testing.assert_array_equal(test.labels, [0, 1, 0, 1, 0, 1])
    assert (test.images[:, 2] == 2).all()
    assert load_splits(cifar10, seed=0).digest == splits.digest


def test_cifar100_has_fine_labels(monkeypatch, site, tmp_path):
    publish_cifar(monkeypatch, site, CIFAR100, "fine_labels")
    splits = load_splits(SOURCES["cifar100"](root=str(tmp_path)), seed=0)
    assert splits.class_names == ("cat", "dog")
    assert len(splits.train) == 16


def test_fashion_mnist_has_its_test_images_before_the_search_begins(fashion, site):
    splits = load_splits(fashion, seed=0)
    for file in site[0].iterdir():
        file.unlink()
    test = load_test(fashion, seed=0)
    assert splits.image_shape == (1, 28, 28)
    assert splits.class_names[9] == "Ankle boot"
    assert [len(splits.train), len(splits.validation), len(test)] == [30, 10, 10]
    for part in (splits.train, test):
        assert (part.images[:, 0, 5, 5] == part.labels).all()


@pytest.mark.parametrize("fault", ["wrong file", "no server", "no such page"])
def test_a_failed_download_names_the_cure_and_leaves_nothing(cifar10, site, monkeypatch, fault):
    if fault == "wrong file":
        flip_byte(site[0] / CIFAR10.filename)
    elif fault == "no server":
        monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    else:
        (site[0] / CIFAR10.filename).unlink()
    with pytest.raises(UserError) as error:
        load_splits(cifar10, seed=0)
    place = Path(cifar10.root) / "cifar-10-python.tar.gz"
    assert f"download {CIFAR10.url}" in error.value.cure
    assert f"place it at {place}" in error.value.cure
    assert "data: {kind: digits}" in error.value.cure
    reason = {
        "wrong file": "not the published file",
        "no server": "Connection refused",
        "no such page": "404",
    }
    assert reason[fault] in error.value.what
    assert list(place.parent.iterdir()) == []


def test_an_archive_placed_by_hand_needs_no_network(cifar10, site, monkeypatch):
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    place = Path(cifar10.root) / CIFAR10.filename
    place.parent.mkdir()
    (site[0] / CIFAR10.filename).rename(place)
    assert len(load_splits(cifar10, seed=0).train) == 80
    assert sorted(path.name for path in place.parent.iterdir()) == [
        CIFAR10.base_folder,
        CIFAR10.filename,
    ]


def test_a_damaged_archive_is_named_and_not_unpacked(cifar10, site):
    place = Path(cifar10.root) / CIFAR10.filename
    place.parent.mkdir()
    place.write_bytes((site[0] / CIFAR10.filename).read_bytes())
    flip_byte(place)
    with pytest.raises(UserError, match="damaged") as error:
        load_splits(cifar10, seed=0)
    assert error.value.where == str(place)
    assert list(place.parent.iterdir()) == [place]


@pytest.mark.parametrize("name", ["data_batch_1", "data_batch_5", "batches.meta"])
def test_a_flipped_byte_in_an_unpacked_file_is_found_at_every_load(cifar10, name):
    digest = load_splits(cifar10, seed=0).digest
    file = Path(cifar10.root) / CIFAR10.base_folder / name
    flip_byte(file)
    with pytest.raises(UserError, match="damaged") as error:
        load_splits(cifar10, seed=0)
    assert error.value.where == str(file)
    file.unlink()  # as the cure says: it comes back from the archive
    assert load_splits(cifar10, seed=0).digest == digest


def test_only_the_evaluation_finds_a_damaged_test_file(cifar10):
    load_splits(cifar10, seed=0)
    flip_byte(Path(cifar10.root) / CIFAR10.base_folder / "test_batch")
    load_splits(cifar10, seed=0)
    with pytest.raises(UserError, match="test_batch"):
        load_test(cifar10, seed=0)


class Hostile:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_a_hostile_pickle_is_not_run(cifar10, tmp_path):
    load_splits(cifar10, seed=0)
    trace = tmp_path / "ran"
    evil = pickle.dumps(Hostile(trace))
    (Path(cifar10.root) / CIFAR10.base_folder / "data_batch_3").write_bytes(evil)
    with pytest.raises(UserError, match="data_batch_3"):
        load_splits(cifar10, seed=0)
    assert not trace.exists()
    pickle.loads(evil)  # noqa: S301
    assert trace.exists()  # it would have


def test_a_flipped_byte_in_fashion_mnist_is_named(fashion):
    load_splits(fashion, seed=0)
    file = Path(fashion.root) / "FashionMNIST/raw/train-labels-idx1-ubyte.gz"
    flip_byte(file)
    with pytest.raises(UserError, match="damaged") as error:
        load_splits(fashion, seed=0)
    assert error.value.where == str(file)
