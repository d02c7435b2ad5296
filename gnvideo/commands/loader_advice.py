"""From what a loader was measured to do to what its user should do about it, in words."""

from __future__ import annotations

from collections.abc import Mapping

from gnvideo.commands.loader_profile import WorkerProfile

# Below these a change is not worth the user's work.
_WORTHWHILE_GAIN = 1.2
_GOOD_SHARE = 0.9
_LARGE_STAGE_SHARE = 0.25
_MUCH_LARGER = 1.25


def advise(
    profile: WorkerProfile, share_by_workers: Mapping[int, float], num_cores: int
) -> list[str]:
    """Returns lines that say where the time goes and what to do, the most useful first.

    Args:
        profile: Of a worker.
        share_by_workers: By number of workers, the loader's rate as a share of bare decoding's.
        num_cores: Of the machine.
    """
    lines = [
        *_advise_on_files(profile),
        *_advise_on_transform(profile),
        *_advise_on_workers(share_by_workers, num_cores),
    ]
    return lines or [
        "nothing stands out: more clips need more cores, with data.num_workers up to their number"
        f" ({num_cores} here)"
    ]


def _advise_on_files(profile: WorkerProfile) -> list[str]:
    share = profile.compute_share("decode")
    total = sum(profile.stage_seconds.values())
    saved = profile.original_decode_seconds - profile.copy_decode_seconds
    gain = profile.original_decode_seconds / profile.copy_decode_seconds
    # What is saved cannot be more than what the worker spends, but both are measured.
    overall_gain = total / max(total - saved, total / 100)
    found = (
        f"decode is {100 * share:.0f} % of a worker's time; keyframes are"
        f" {profile.keyframe_interval_frames:.0f} apart"
    )
    if overall_gain >= _WORTHWHILE_GAIN:
        return [
            f"{found}: re-encode with data_tools/preprocess_kinetics.py --profile fast-seek"
            f"{_name_side(profile)}, about {gain:.1f} times as fast to read, which makes a worker"
            f" about {overall_gain:.1f} times as fast (measured on copies of {profile.num_copies}"
            " of these videos)"
        ]
    if share >= 0.5:
        return [
            f"{found}, and copies made to be read at random are read {gain:.1f} times as fast:"
            " the files are as good as they get"
        ]
    return []


def _advise_on_workers(share_by_workers: Mapping[int, float], num_cores: int) -> list[str]:
    num_workers = max(share_by_workers)
    share = share_by_workers[num_workers]
    if share >= _GOOD_SHARE:
        return []
    found = (
        f"with {num_workers} workers the loader reaches {100 * share:.0f} % of bare decoding on"
        f" {num_cores} cores"
    )
    if num_workers >= num_cores:
        return [
            f"{found}, since the main process needs a part of a core as well; that is what"
            " batching and handing over cost, and more workers do not help"
        ]
    return [f"{found}: batching and handing over take the rest; more workers make up for it"]


def _name_side(profile: WorkerProfile) -> str:
    """Returns the option that makes the copies as small as they may be, if that is much smaller."""
    if profile.short_side_pixels <= _MUCH_LARGER * profile.resized_short_side_pixels:
        return ""
    return f" --short-side {profile.resized_short_side_pixels}"


def _advise_on_transform(profile: WorkerProfile) -> list[str]:
    share = profile.compute_share("transform")
    if share < _LARGE_STAGE_SHARE:
        return []
    text = f"transform is {100 * share:.0f} % of a worker's time"
    if _name_side(profile):
        return [
            f"{text}: frames of {profile.short_side_pixels:.0f} pixels are scaled to at most"
            f" {profile.resized_short_side_pixels}; prepare them with{_name_side(profile)}"
        ]
    return [
        f"{text}: frames are scaled to a random short side and cropped; a smaller"
        " data.short_side_range_pixels and data.crop_pixels cost less, and are another training"
    ]
