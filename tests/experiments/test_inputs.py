"""Bytes before a network are the floats that it would get, and augmentation is the same for any chunk."""

import numpy as np
import pytest
import torch
from torch import nn

from support.errors import Refused
from support.experiments import data, networks
from support.experiments.inputs import Augment, Pixels, moved
from support.experiments.judging import Data, judge
from support.experiments.training import Trainer, cross_entropy
from support.sampling import GaussianCovariance


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def images():
    return torch.randint(0, 256, (12, 3, 6, 5), dtype=torch.uint8, generator=generator(0))


# --- pixels


@pytest.mark.parametrize("pixels", ["raw", "unit", "centred"])
@pytest.mark.parametrize("brightest", [16, 255])
def test_pixels_are_those_of_the_split_bit_for_bit(pixels, brightest):
    every = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    images = data.Images("some", (every, np.zeros(4, int)), (every, np.zeros(4, int)), brightest=brightest)
    options = {"protocol": "code", "seed": 1, "pixels": pixels}
    stored, scaled = data.split(images, 4, as_bytes=True, **options), data.split(images, 4, **options)
    found = Pixels(*data.scaling(pixels, brightest))(torch.as_tensor(stored.train[0]))
    assert found.dtype == torch.float32 and torch.equal(found, torch.as_tensor(scaled.train[0]))


def test_a_run_on_bytes_is_the_run_on_floats_bit_for_bit():
    images, labels = np.random.default_rng(1).integers(0, 17, (60, 8, 8), dtype=np.uint8), np.arange(60) % 10
    some, curves = data.Images("some", (images, labels), (images, labels), brightest=16), []
    for as_bytes in (False, True):
        parts = data.split(some, 40, protocol="code", seed=1, pixels="unit", as_bytes=as_bytes)
        torch.manual_seed(1)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        net = nn.Sequential(Pixels(*data.scaling("unit", 16)), net) if as_bytes else net
        on_device = Data.on("cpu", parts.train, parts.test, watched=100)
        assert on_device.train[0].dtype == (torch.uint8 if as_bytes else torch.float32)
        optimizer, law = torch.optim.SGD(net.parameters(), 0.5), GaussianCovariance(40, 5)
        run = Trainer(net, optimizer, law, on_device, generator=generator(), chunk=16)
        curves.append(run.run(6, evaluate_every=2, show=False).curves)
    assert curves[0] == curves[1]


def test_pixels_leave_the_images_and_keep_their_layout(images):
    last, before = images.contiguous(memory_format=torch.channels_last), images.clone()
    found = Pixels(2 / 255, -1)(last)
    assert found.is_contiguous(memory_format=torch.channels_last) and torch.equal(images, before)
    torch.testing.assert_close(found.double(), images.double() * 2 / 255 - 1, rtol=0, atol=1e-6)


def test_grey_images_become_colour_images_of_equal_channels(images):
    grey, last = images[:, :1], images.contiguous(memory_format=torch.channels_last)
    layer, plain = Pixels(1 / 255, colour=True), Pixels(1 / 255)
    assert torch.equal(layer(grey), plain(grey.repeat(1, 3, 1, 1))) and torch.equal(layer(last), plain(images))
    net = networks.VGG5(pixels=3 * 64)
    digits = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8, generator=generator())
    torch.testing.assert_close(net(layer(digits)), net(plain(digits.repeat(1, 3, 1, 1))))


# --- augmentation


def by_hand(image, offset, flip, pad):
    """One image, pixel by pixel."""
    _, height, width = image.shape
    found = torch.zeros_like(image)
    for i in range(height):
        for j in range(width):
            y, x = i + int(offset[0]) - pad, (width - 1 - j if flip else j) + int(offset[1]) - pad
            if 0 <= y < height and 0 <= x < width:
                found[:, i, j] = image[:, y, x]
    return found


@pytest.mark.parametrize("pad", [0, 1, 2, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_crops_and_flips_pixel_by_pixel(images, pad, layout):
    layer, same = Augment(generator(), pad), Augment(generator(), pad)
    found = layer(images.contiguous(memory_format=layout))
    offsets, flips = same.draw(12)
    assert found.dtype == torch.uint8 and found.is_contiguous(memory_format=torch.channels_last)
    for k in range(12):
        assert torch.equal(found[k], by_hand(images[k], offsets[k], flips[k], pad))
    assert 0 < flips.sum() < 12


def test_every_offset_of_the_protocol_is_drawn_as_often():
    m = 40_000
    for protocol, count in (("paper", 5), ("code", 4)):  # pad = 2: 0 … 4, of which the released code never draws 4
        offsets, flips = Augment(generator(), 2, protocol).draw(m)
        for column in offsets.T:
            found = torch.bincount(column, minlength=5) / m
            expected = torch.tensor([1 / count] * count + [0.0] * (5 - count))
            assert (found - expected).abs().max() < 5 * (0.2 / m) ** 0.5  # five standard errors
        assert abs(flips.double().mean() - 0.5) < 5 * (0.25 / m) ** 0.5
        joint = torch.corrcoef(torch.cat([offsets.T, flips[None]]).double()) - torch.eye(3)
        assert joint.abs().max() < 5 / m**0.5


@pytest.mark.parametrize("cuts", [(12,), (1, 11), (5, 7), (1,) * 12])
def test_chunks_see_what_one_pass_would_see(images, cuts):
    whole, parts = Augment(generator()), Augment(generator())
    first, second = whole(images), whole(images)
    assert torch.equal(torch.cat([parts(chunk) for chunk in images.split(cuts)]), first)
    assert torch.equal(torch.cat([parts(chunk) for chunk in images.split(cuts)]), second)
    assert not torch.equal(first, second)


def test_in_evaluation_mode_nothing_is_drawn(images):
    layer = Augment(generator()).eval()
    assert layer(images) is images and torch.equal(layer.generator.get_state(), generator().get_state())


def test_gradients_pass_through(images):
    """Each pixel of the result sends its gradient to the pixel that it came from."""
    x = images.double().requires_grad_()
    offsets, flips = Augment(generator()).draw(12)
    sent = torch.rand(12, 3, 6, 5, dtype=torch.float64, generator=generator())
    (moved(x, offsets, flips, 2) * sent).sum().backward()
    expected = torch.zeros_like(x)
    for k in range(12):
        for i in range(6):
            for j in range(5):
                y, z = i + int(offsets[k, 0]) - 2, (4 - j if flips[k] else j) + int(offsets[k, 1]) - 2
                if 0 <= y < 6 and 0 <= z < 5:
                    expected[k, :, y, z] += sent[k, :, i, j]
    assert torch.equal(x.grad, expected)


def test_a_run_with_augmentation_is_resumed_bit_for_bit(tmp_path):
    images, labels = torch.randint(0, 256, (24, 3, 6, 6), dtype=torch.uint8, generator=generator(0)), torch.arange(24)
    there = Data.on("cpu", (images, labels % 3), (images, labels % 3), watched=24)

    def fresh(chunk=8):
        torch.manual_seed(1)
        net = networks.ResNet(1, (3, 4), classes=3, ghost=4)
        model = nn.Sequential(Augment(generator(7)), Pixels(1 / 255), net)
        law, optimizer = GaussianCovariance(24, 4), torch.optim.SGD(model.parameters(), 0.1)
        return Trainer(model, optimizer, law, there, generator=generator(), chunk=chunk)

    whole = fresh().run(6, evaluate_every=2, show=False)
    for steps in (3, 6):
        parts = fresh().run(steps, evaluate_every=2, show=False, checkpoint=tmp_path / "run.pt")
    assert parts.final == whole.final
    other = fresh(chunk=24).run(6, evaluate_every=2, show=False)
    assert other.final["train_loss"] == pytest.approx(whole.final["train_loss"], rel=1e-4)


def test_judging_sees_the_images_as_they_are(images):
    net = nn.Sequential(Augment(generator()), Pixels(1 / 255), nn.Flatten(), nn.Linear(90, 4))
    labels = torch.arange(12) % 4
    plain = judge(net[2:], cross_entropy, images.float() * (1 / 255), labels)
    assert judge(net, cross_entropy, images, labels) == plain and net.training


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: Pixels(1)(x.float()), "images are of type torch.float32: give bytes"),
        (lambda x: Pixels(1)(x.numpy()), "images is of type ndarray"),
        (lambda x: Pixels("unit"), "scale = 'unit' is not a number"),
        (lambda x: Pixels(1, colour=1), "colour = 1 is not a boolean"),
        (lambda x: Pixels(1, float("nan")), "shift = nan is out of range"),
        (lambda x: Augment(1), "generator = 1 is no torch generator"),
        (lambda x: Augment(generator(), -1), "pad = -1 is out of range"),
        (lambda x: Augment(generator(), 2, "both"), "protocol = 'both' is unknown: choose paper, code"),
        (lambda x: Augment(generator())(x[0]), r"images has shape \(3, 6, 5\)"),
        (lambda x: Augment(generator()).draw(1.0), "m = 1.0 is not an integer"),
        (lambda x: moved(x, torch.zeros(12, 2), torch.zeros(12).bool(), 1), "offsets are of type torch.float32"),
        (lambda x: moved(x, torch.zeros(12, 2).long(), torch.zeros(12), 1), "flips are of type torch.float32"),
        (lambda x: moved(x, torch.zeros(11, 2).long(), torch.zeros(12).bool(), 1), r"offsets has shape \(11, 2\)"),
        (lambda x: moved(x, torch.full((12, 2), 3), torch.zeros(12).bool(), 1), "offsets from 3 to 3 are out of range"),
        (lambda x: moved(x, torch.full((12, 2), -1), torch.zeros(12).bool(), 1), "offsets from -1 to -1 are out of"),
    ],
)
def test_what_cannot_be_taken_is_refused(images, call, message):
    with pytest.raises(Refused, match=message):
        call(images)
