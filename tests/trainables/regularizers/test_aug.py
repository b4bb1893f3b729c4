"""Aug: what the crop, the colours and the flip do to images of known content, and where their numbers come from."""

from typing import Any, ClassVar, cast

import pytest
import torch
from reference import GLYPHS, Random, learner, same_tasks, small_trial
from torch import Tensor
from torch.utils._pytree import tree_map

from raymeta.problem import Examples, Tasks
from raymeta.problems.images.dataset import ImageDataset
from raymeta.testing import conformance
from raymeta.training.trainer import Trainer
from trainables.regularizers.aug import Aug

OFF: dict[str, Any] = {"crop": False, "jitter": 0.0, "flip": False}
SIDE, TASKS, SUPPORT, QUERY = 16, 4, 30, 20


class Standardised(Random):
    """As CIFAR-FS's images are."""

    mean: ClassVar[tuple[float, ...]] = (0.5071, 0.4847, 0.4408)
    std: ClassVar[tuple[float, ...]] = (0.2675, 0.2565, 0.2761)


GREY, COLOUR, STANDARDISED = Random((1, SIDE, SIDE)), Random((3, SIDE, SIDE)), Standardised((3, SIDE, SIDE))
COLOURED = pytest.mark.parametrize("problem", [COLOUR, STANDARDISED], ids=["raw", "standardised"])
ANY = pytest.mark.parametrize("problem", [GREY, COLOUR, STANDARDISED], ids=["grey", "raw", "standardised"])


def scale(problem: Random) -> tuple[Tensor, Tensor]:
    """Mean and deviation, as the store applies them: in float32."""
    mean, std = getattr(problem, "mean", (0.0,)), getattr(problem, "std", (1.0,))
    return torch.tensor(mean)[:, None, None].double(), torch.tensor(std)[:, None, None].double()


def episodes(problem: Random, pixels: Tensor) -> Tasks:
    """TASKS tasks of SUPPORT and QUERY images from pixels in 0..1, which broadcast to [T, n, C, H, W]."""
    mean, std = scale(problem)
    x = ((pixels.double() - mean) / std).expand(TASKS, SUPPORT + QUERY, *problem.input_shape)
    y = (torch.arange(SUPPORT + QUERY) % 5).expand(TASKS, -1)
    support, query = slice(None, SUPPORT), slice(SUPPORT, None)
    return Tasks(*(Examples(x[:, part].clone(), y[:, part].clone()) for part in (support, query)))


def noise(problem: Random, *leading: int) -> Tensor:
    return torch.rand(*leading, *problem.input_shape, generator=torch.Generator().manual_seed(0))


def images(problem: Random, found: Tasks) -> Tensor:
    """All images of episodes, [T (n), C, H, W], in 0..1."""
    mean, std = scale(problem)
    return torch.cat([found.support.x, found.query.x], 1).flatten(0, 1) * std + mean


def regularizer(problem: Random, **settings: Any) -> Aug:
    made = learner(problem, model={"name": "conv4", "width": 4}, regularizers={"aug": settings})
    return cast(Aug, made.regularizers[0])


def augmented(problem: Random, before: Tasks, seed: int = 0, **settings: Any) -> Tasks:
    return regularizer(problem, **settings).on_tasks(before, 0.0, torch.Generator().manual_seed(seed))


@ANY
def test_flip_mirrors_every_second_image_and_nothing_else(problem: Random) -> None:
    before = episodes(problem, noise(problem, TASKS, SUPPORT + QUERY))
    found = images(problem, augmented(problem, before, **{**OFF, "flip": True}))
    whole = images(problem, before)
    same, mirrored = (((found - x).abs() < 1e-8).flatten(1).all(1) for x in (whole, whole.flip(-1)))
    assert (same ^ mirrored).all()
    assert float(mirrored.double().mean()) == pytest.approx(0.5, abs=4.5 * 0.5 / len(found) ** 0.5)


@ANY
def test_pixels_stay_in_0_to_1_and_use_all_of_it(problem: Random) -> None:
    before = episodes(problem, noise(problem, TASKS, SUPPORT + QUERY))
    found = augmented(problem, before)
    assert tree_map(torch.Tensor.size, found) == tree_map(torch.Tensor.size, before)
    pixels = images(problem, found)
    assert -1e-9 < float(pixels.min()) < 0.02
    assert 0.98 < float(pixels.max()) < 1 + 1e-9


@ANY
@pytest.mark.parametrize("jitter", [0.4, 1.0])
def test_a_constant_grey_image_is_scaled_and_cut_at_1(problem: Random, jitter: float) -> None:
    found = images(problem, augmented(problem, episodes(problem, torch.tensor(0.8)), **{**OFF, "jitter": jitter}))
    assert float((found - found[:, :1, :1, :1]).abs().max()) < 1e-3  # torchvision's grey is 0.9999 of it
    values = found.mean((1, 2, 3))
    assert 0.8 * (1 - jitter) - 1e-3 < float(values.min()) < 0.8 * (1 - jitter) + 0.05
    assert float(values.max()) == pytest.approx(1, abs=1e-3)
    cut = 1 - (1 / 0.8 - (1 - jitter)) / (2 * jitter)  # how often the factor is beyond 1 / 0.8
    spread = 4.5 * (cut * (1 - cut) / len(values)) ** 0.5
    assert float((values > 0.999).double().mean()) == pytest.approx(cut, abs=spread)


@COLOURED
@pytest.mark.parametrize("jitter", [0.1, 0.4])
def test_brightness_contrast_and_saturation_are_each_uniform_in_their_bounds(problem: Random, jitter: float) -> None:
    """Two halves of other lightness and the same chroma tell the three apart, whatever their order."""
    chroma = 0.05 * torch.tensor([1.0, -0.2989 / 0.587, 0.0])[:, None, None]  # no lightness in it
    halves = torch.where(torch.arange(SIDE) < SIDE // 2, 0.3, 0.5)
    found = images(problem, augmented(problem, episodes(problem, halves + chroma), **{**OFF, "jitter": jitter}))
    lightness = (found * torch.tensor([0.2989, 0.587, 0.114])[:, None, None]).sum(1)
    left, right = lightness[:, 0, 0], lightness[:, 0, -1]
    brightness = (left + right) / 0.8
    contrast = (right - left) / 0.2 / brightness
    saturation = (found[:, 0] - found[:, 2])[:, 0, 0] / 0.05 / (right - left) * 0.2
    factors = torch.stack([brightness, contrast, saturation])
    for factor in factors:
        assert 1 - jitter - 2e-3 < float(factor.min()) < 1 - 0.9 * jitter
        assert 1 + 0.9 * jitter < float(factor.max()) < 1 + jitter + 2e-3
        assert float(factor.std()) == pytest.approx(jitter / 3**0.5, rel=0.15)
    assert float((torch.corrcoef(factors) - torch.eye(3)).abs().max()) < 4.5 / factors.shape[1] ** 0.5


@COLOURED
def test_crop_cuts_parts_of_all_sizes_and_places_and_makes_the_whole_of_them(problem: Random) -> None:
    """Images whose channels are the column, the row and a constant."""
    large = type(problem)((3, 64, 64))
    place = (torch.arange(64) + 0.5) / 64
    pixels = torch.stack([place.expand(64, 64), place[:, None].expand(64, 64), torch.full((64, 64), 0.5)])
    found = images(large, augmented(large, episodes(large, pixels), **{**OFF, "crop": True}))
    torch.testing.assert_close(found[:, 2], torch.full_like(found[:, 2], 0.5), rtol=0, atol=1e-8)
    columns, rows = found[:, 0], found[:, 1].transpose(1, 2)
    for places in (columns, rows):
        assert float((places - places[:, :1]).abs().max()) < 1e-8
        steps = places[:, 0].diff(dim=1)[:, 16:-16]  # away from the edges, where nothing is left to interpolate with
        assert float((steps - steps[:, :1]).abs().max()) < 1e-8
        middle = places[:, 0, 31:33].mean(1)
        assert float(middle.min()) < 0.35
        assert float(middle.max()) > 0.65
    width, height = (64 * (places[:, 0, 40] - places[:, 0, 24]) / 16 for places in (columns, rows))
    area, ratio = width * height, width / height
    rounding = 1.04  # whole pixels
    assert 0.08 / rounding < float(area.min()) < 0.12
    assert 0.9 < float(area.max()) < 1 + 1e-6
    assert 0.75 / rounding < float(ratio.min()) < 0.8
    assert 1.25 < float(ratio.max()) < 4 / 3 * rounding


@ANY
def test_every_image_is_changed_by_itself_and_anew(problem: Random) -> None:
    before = episodes(problem, noise(problem))
    aug, generator = regularizer(problem), torch.Generator().manual_seed(0)
    found = torch.cat([images(problem, aug.on_tasks(before, 0.0, generator)) for _ in range(2)])
    assert len(found.flatten(1).unique(dim=0)) == len(found) == 2 * TASKS * (SUPPORT + QUERY)


def test_labels_and_the_episodes_given_stay_as_they_are() -> None:
    before = episodes(COLOUR, noise(COLOUR, TASKS, SUPPORT + QUERY))
    kept = before.map(torch.clone)
    found = augmented(COLOUR, before)
    assert same_tasks(before, kept)
    assert torch.equal(found.support.y, kept.support.y)
    assert torch.equal(found.query.y, kept.query.y)


def test_only_the_generator_given_decides_and_torchs_own_is_left_as_it_was() -> None:
    before, aug, found = episodes(COLOUR, noise(COLOUR)), regularizer(COLOUR), list[Tensor]()
    with torch.random.fork_rng(devices=[]):
        for own, seed in ((1, 7), (2, 7), (2, 8)):
            torch.manual_seed(own)
            state = torch.get_rng_state()
            found.append(aug.on_tasks(before, 0.0, torch.Generator().manual_seed(seed)).query.x)
            assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_all_off_are_the_episodes_given() -> None:
    before, generator = episodes(COLOUR, noise(COLOUR)), torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert regularizer(COLOUR, **OFF).on_tasks(before, 0.0, generator) is before
    assert torch.equal(generator.get_state(), state)


def test_the_trainer_changes_the_same_images_otherwise_at_every_step_alike_for_a_seed(glyphs: ImageDataset) -> None:
    def seen(seed: int) -> list[Tensor]:
        trainer = Trainer(small_trial(GLYPHS, regularizers={"aug": {}}, seed=seed))
        aug, found = cast(Aug, trainer.learner.regularizers[0]), list[Tensor]()
        plain, same = aug.on_tasks, glyphs.bank("train", 0).draw(0, 3)

        def accumulate(episodes: Tasks, *rest: object) -> Tensor:
            found.extend([episodes.support.x, episodes.query.x])
            return torch.zeros(())

        aug.on_tasks = lambda _, *rest: plain(same, *rest)  # type: ignore[method-assign]
        trainer.accumulate = accumulate  # type: ignore[method-assign, assignment]
        for _ in range(3):
            trainer.outer_update()
        return found

    one, again, other = seen(0), seen(0), seen(1)
    assert len(one) == 6
    assert all(map(torch.equal, one, again))
    supports = [*one[::2], *other[::2]]
    assert len(torch.stack(supports).flatten(1).unique(dim=0)) == len(supports)


test_aug_conforms = conformance("protonet+aug", "maml+dropgrad+aug")
