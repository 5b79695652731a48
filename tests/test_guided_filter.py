"""Guided filter: against its definition in every window, and on an edge that the mask misses."""

from __future__ import annotations

import torch

from icf_avs.inference.guided_filter import _EPS, _fit, _resize_by_mean, guided_filter


def test_every_window_equals_a_ridge_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(2, 3, 9, 12, generator=generator) - 0.5
    values = torch.randn(2, 1, 9, 12, generator=generator)
    slopes, level = _fit(colours, values, radius=2)
    for n, row, column in ((0, 4, 5), (1, 0, 0), (1, 8, 7)):  # inside, at a corner, at a border
        window = slice(max(row - 2, 0), row + 3), slice(max(column - 2, 0), column + 3)
        inputs = colours[n][:, *window].flatten(1).double()
        wanted = values[n, 0][window].flatten().double()
        centred = inputs - inputs.mean(1, keepdim=True)
        spread = centred @ centred.T / inputs.shape[1] + _EPS * torch.eye(3)
        slope = torch.linalg.solve(spread, centred @ wanted / inputs.shape[1])
        torch.testing.assert_close(slopes[n, :, row, column].double(), slope, atol=2e-3, rtol=2e-3)
        expected = wanted.mean() - slope @ inputs.mean(1)
        torch.testing.assert_close(level[n, 0, row, column].double(), expected, atol=1e-3, rtol=1e-3)


def test_a_blurred_mask_follows_the_colour_edge() -> None:
    truth = torch.zeros(1, 128, 128, dtype=torch.bool)
    truth[:, 28:101, 45:86] = True
    pictures = torch.where(truth[..., None], torch.tensor([200, 60, 40]), torch.tensor([90, 120, 80]))
    noise = torch.randint(-6, 7, pictures.shape, generator=torch.Generator().manual_seed(0))
    pictures = (pictures + noise).byte()
    rough = torch.full((1, 64, 64), -3.0)
    rough[:, 12:48, 21:45] = 3.0  # one or two cells off at each side
    smooth = torch.nn.functional.avg_pool2d(rough, 7, 1, 3, count_include_pad=False)

    def iou(logits: torch.Tensor) -> float:
        marked = torch.nn.functional.interpolate(logits[None], (128, 128), mode="bilinear")[0] > 0
        return float((marked & truth).sum() / (marked | truth).sum())

    followed = guided_filter(smooth, pictures)
    assert followed.shape == (1, 128, 128)
    assert iou(smooth) < 0.9 < 0.97 < iou(followed)


def test_a_frame_of_one_colour_changes_little() -> None:
    logits = torch.nn.functional.interpolate(
        torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)), (32, 32), mode="bicubic"
    )[0]
    followed = guided_filter(logits, torch.full((1, 128, 128, 3), 77, dtype=torch.uint8))
    assert torch.isfinite(followed).all()
    assert abs(float(followed.mean() - logits.mean())) < 0.05


def test_an_added_constant_is_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 16, 16, generator=generator, dtype=torch.float64)  # float32 would round here
    pictures = torch.randint(0, 256, (2, 32, 32, 3), generator=generator, dtype=torch.uint8)
    found, wanted = guided_filter(logits + 1, pictures), guided_filter(logits, pictures) + 1
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_colours_of_larger_frames_are_averaged() -> None:
    small = torch.randint(0, 256, (1, 8, 12, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for times in (1, 2, 3):
        large = small.repeat_interleave(times, 1).repeat_interleave(times, 2)
        large[:, :times, :times] = torch.arange(times * times)[:, None].expand(-1, 3).view(1, times, times, 3)
        found = _resize_by_mean(large, 8, 12)
        torch.testing.assert_close(found[0, :, 0, 0], torch.full((3,), (times * times - 1) / 2))
        torch.testing.assert_close(found[0, :, 3:, 3:], small[0, 3:, 3:].permute(2, 0, 1).float())
