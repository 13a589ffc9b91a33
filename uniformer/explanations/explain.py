"""Why an answer was given: `explain` sees a source as prediction does, and maps what spoke for one class, box or point.

views (as fed)  ->  the task's evidence (one number for each view)  ->  gradients  ->  maps, laid back over the source
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from uniformer.checkpoints.records import BUNDLED
from uniformer.errors import InputError, counted, first_line
from uniformer.explanations.explanation import Explanation, Part, between, joined
from uniformer.explanations.maps import attention_relevance, class_activation, kept_tokens, survival
from uniformer.explanations.trace import Trace, backbone_of, traced
from uniformer.inference.networks import TorchNetwork, is_exported
from uniformer.inference.predictor import Predictor
from uniformer.network.model import UniFormer
from uniformer.reading.moments import moments_of
from uniformer.reading.sources import Media, name_of_source
from uniformer.reading.transforms import Floats
from uniformer.reading.video import open_video
from uniformer.reading.views import Source, Views, load_views
from uniformer.tasks.pictured import label_named
from uniformer.tasks.task import Evidence
from uniformer.timelines.timeline import Timeline, Window, timeline

if TYPE_CHECKING:
    from uniformer.checkpoints.identify import CheckpointSource
    from uniformer.network.ops import Grid

EPSILON = 1e-6  # seconds by which times may be off


class Explainer:
    """A network whose answers are to be explained, ready for many sources.

        explainer = uniformer.Explainer("uniformer_small.k400_16x4")
        explanation = explainer("clip.mp4", "yoga")
        explanation.full("stage4")  # (views, T, h, w)

    Args:
        model: a checkpoint, as `Predictor` takes it, or a `Predictor`. By default the model in the package.
        options: those of `Predictor`. The network computes in its plain form, in float32, one view at a time.

    Raises `InputError` for an exported network: it has answers only.
    """

    def __init__(self, model: CheckpointSource | tuple[UniFormer, Any] | Predictor = BUNDLED, **options: Any):
        if is_exported(model) or (isinstance(model, Predictor) and not isinstance(model.network, TorchNetwork)):
            where = "" if isinstance(model, Predictor) else f"{model}: "
            raise InputError(f"{where}expected a checkpoint to explain, got an exported network: it has answers only")
        self.predictor = model if isinstance(model, Predictor) else Predictor(model, compute="plain", **options)
        assert isinstance(self.predictor.network, TorchNetwork)
        self.network: nn.Module = self.predictor.network.model
        self._backbone = backbone_of(self.network)

    def __call__(
        self, source: Source, target: str | None = None, *, number: int = 1, fps: float | None = None
    ) -> Explanation:
        """What spoke for one answer to a source, as `Predictor` takes it.

        Args:
            target: a class, or of poses a key point, by its name in any spelling, or its number where the checkpoint
                has no names. By default what the network says: the likeliest class, the largest, the surest.
            number: which box of the class, best first, or which person in the order of the boxes, from 1.
            fps: of frames without a clock.

        Raises `InputError` where there is no such thing in the answer, and for a source that cannot be read.
        """
        self.check_target(target)
        name = name_of_source(source)
        try:
            views = self.predictor.views(source, fps=fps)
        except InputError:
            raise
        except Exception as error:  # a decoder's or a file system's own
            raise InputError(f"{name}: cannot be read: {type(error).__name__}: {first_line(error)}") from None
        return self._explained(views, name, target, number)

    def check_target(self, target: str | None) -> None:
        """Raises `InputError` where no class or key point has that name: said before hours of work."""
        self.predictor.task.check()
        if target is not None:
            label_named(target, self.predictor.contract)

    def timeline(
        self,
        source: Any,
        target: str | None = None,
        *,
        window: float | None = None,
        cuts: bool = True,
        progress: Callable[[float, float], None] | None = None,
    ) -> Explanation:
        """What spoke for each answer over a whole video, or for one class throughout: windows side by side.

        `progress` is told the seconds done and all seconds, twice: as the video is seen, and as it is explained. Other
        arguments and errors as for `uniformer.timeline`.
        """
        self.check_target(target)
        found = timeline(source, self.predictor, window=window, cuts=cuts, progress=progress)
        return self.windows(source, found, target, progress=progress)

    def windows(
        self,
        source: Any,
        found: Timeline,
        target: str | None = None,
        *,
        progress: Callable[[float, float], None] | None = None,
    ) -> Explanation:
        """As `timeline`, of one that was `found` in the source by the same network: it is not computed again, so
        `progress` is told but once. Raises `InputError` for one of another network."""
        own = self.predictor.contract.id or self.predictor.contract.arch
        if found.checkpoint != own:
            raise InputError(f"expected a timeline by {own} to explain, got one by {found.checkpoint}")
        assert self.predictor.spec is not None
        spec = replace(self.predictor.spec, clips=1)
        parts = []
        for one in side_by_side(found):
            views = load_views(
                source, spec, backend=self.predictor.backend, follow_seconds=spec.fps is not None,
                span=(one.start, one.end),
            )  # fmt: skip
            part = self._explained(views, found.source, target or motion_of(found, one), 1)
            parts.append(replace(part, parts=(part.parts[0]._replace(start=one.start, end=one.end),)))
            if progress is not None:
                progress(one.end, found.duration)
        return joined(parts)

    def frames(self, source: Media, target: str | None = None, *, number: int = 1, every: int = 1) -> Explanation:
        """Of a network of pictures: what spoke for its answer to each frame of a video, or to every so many.

        What cannot be decoded, and frames without such a thing in their answer, are a note. Raises `InputError` where
        that is all of them, and for what is no video.
        """
        if self.predictor.spec is not None and self.predictor.spec.is_video:
            raise InputError("expected a network of pictures to explain each frame of a video, got one of clips")
        self.check_target(target)
        parts, why = list[Explanation](), list[str]()
        with open_video(source, backend=self.predictor.backend) as reader:
            info = reader.info
            for moment in moments_of(reader, every):
                try:
                    if moment.picture is None:
                        raise InputError("it cannot be decoded")
                    found = self._explained(self.predictor.views(moment.picture()), info.path, target, number)
                except InputError as error:
                    why.append(f"frame {moment.number}: {error}")
                    continue
                seconds = None if moment.time is None else np.array([[moment.time]])
                found = replace(found, frames=np.array([[moment.number]]), seconds=seconds)
                parts.append(replace(found, num_frames=info.num_frames, fps=info.fps))
        if not parts:
            raise InputError(f"{info.path}: expected a frame with something to explain, found none: {why[0]}")
        notes = (f"{counted(len(why), 'frame')} without an explanation, the first {why[0]}",) if why else ()
        return replace(joined(parts), notes=(*reader.notes, *notes))

    def _explained(self, views: Views, source: str, target: str | None, number: int) -> Explanation:
        contract, network = self.predictor.contract, self.predictor.network
        assert isinstance(network, TorchNetwork)
        evidence = self.predictor.task.evidence(self.network, views, network.device, target, number)
        own = views.array[list(evidence.views)]
        places = token_places(self._backbone, own.shape[2:])
        maps: dict[str, list[Floats]] = {}
        kept: dict[str, list[Any]] = {}
        for view in evidence.views:
            trace, grads = traced(self.network, partial(evidence.score, view), first=2 if evidence.pooled else 1)
            for kind, tokens in self._maps(trace, grads, evidence).items():
                maps.setdefault(kind, []).append(in_depth(tokens, own.shape[2:], places))
            for (stage, index), which in kept_tokens(self._backbone, trace).items():
                kept.setdefault(f"stage{stage}.block{index + 1}", []).append(_with_time(which).cpu().numpy()[0])
        if not all(np.isfinite(found).all() for found in maps.values()):
            raise InputError(f"{source}: expected finite numbers of the network, got NaN or infinity")
        stages = {kind: int(kind[-1]) if kind.startswith("stage") else 3 for kind in maps}
        rows_and_columns = {kind: places[stage][-2:] for kind, stage in stages.items()}
        return Explanation(
            source=source, checkpoint=contract.id or contract.arch,
            parts=(Part(evidence.name, evidence.value, views=len(own)),),
            maps={kind: np.stack(found) for kind, found in maps.items()},
            places={kind: (rows, columns) for kind, (rows, columns) in rows_and_columns.items()},
            kept={block: np.stack(found) for block, found in kept.items()},
            usual=f"stage{evidence.stage}",
            size=(own.shape[-2], own.shape[-1]), boxes=tuple(evidence.boxes), height=views.height, width=views.width,
            frames=None if views.frames is None else per_view(views.frames, len(own)),
            seconds=None if views.seconds is None else per_view(views.seconds, len(own)),
            num_frames=1 if views.frames is None else views.num_frames or 1, fps=views.fps, notes=views.notes,
        )  # fmt: skip

    def _maps(self, trace: Trace, grads: Any, evidence: Evidence) -> dict[str, Tensor]:
        """Each kind of a view, (1, *grid)."""
        found = {
            f"stage{stage}": class_activation(
                trace.maps[stage].detach(), grads.maps[stage], pooled=evidence.pooled
            ).relu()
            for stage in ((4, 3) if evidence.pooled else (4, 3, 2, 1))  # of a place finer ones too: things are small
        }
        found["attention"] = attention_relevance(self._backbone, trace, grads, pooled=evidence.pooled)
        if kept := kept_tokens(self._backbone, trace):
            found["kept"] = survival(kept, trace.grid(3))
        return found


def explain(
    source: Source,
    model: CheckpointSource | tuple[UniFormer, Any] | Predictor = BUNDLED,
    *,
    target: str | None = None,
    number: int = 1,
    **options: Any,
) -> Explanation:
    """Where and when a network looked for one answer to an image, a clip or a picture of a dense network.

        found = uniformer.explain("clip.mp4", "uniformer_small.k400_16x4", target="yoga")
        found.over_time("stage4")  # (num_frames,)

    Arguments and errors as for `Explainer`; for more than one source, make one and keep it.
    """
    return Explainer(model, **options)(source, target, number=number)


# ---- places ----------------------------------------------------------------------------------------------------------


def token_places(backbone: UniFormer, size: Grid) -> dict[int, tuple[Floats, ...]]:
    """Where the positions of each stage have their centres along each axis of an input of `size` ([T,] H, W): frames or
    pixels, from the middle of the first."""
    scale, offset = np.ones(len(size)), np.zeros(len(size))
    found: dict[int, tuple[Floats, ...]] = {}
    for number, (stage, grid) in enumerate(zip(backbone.stages, backbone.grids(size), strict=True), start=1):
        for m in stage.embed.modules():  # type: ignore[union-attr]
            if isinstance(m, nn.Conv2d | nn.Conv3d):
                kernel, padding, stride = (np.array(v) for v in (m.kernel_size, m.padding, m.stride))
                offset, scale = offset + scale * ((kernel - 1) / 2 - padding), scale * stride
        axes = zip(offset, scale, grid, strict=True)
        found[number] = tuple((o + s * np.arange(n)).astype(np.float32) for o, s, n in axes)
    return found


def _with_time(tokens: Tensor) -> Tensor:
    """(1, *grid) -> (1, T or 1, h, w)."""
    return tokens if tokens.ndim == 4 else tokens[:, None]


def in_depth(tokens: Tensor, size: Grid, places: dict[int, tuple[Floats, ...]]) -> Floats:
    """Tokens (1, *grid) at each frame of the clip, which the network halves: (T, h', w'); of a picture T is 1."""
    values = _with_time(tokens.float()).cpu().numpy()[0]
    if len(size) == 2:
        return values
    return np.tensordot(between(places[3][0], np.arange(size[0])), values, 1)  # time is the same in both stages


def per_view(moments: Any, views: int) -> Any:
    """Of clips (clips, T): of each view, whose crops vary fastest, (V, T)."""
    return np.repeat(moments, views // len(moments), axis=0)


# ---- timelines -------------------------------------------------------------------------------------------------------


def side_by_side(found: Timeline) -> Iterator[Window]:
    """Windows one after the other, and the last of each shot, which may overlap the one before."""
    end, shot = -1.0, 0
    last = {window.shot: window for window in found.windows}
    for window in found.windows:
        if (
            window.shot != shot
            or window.start >= end - EPSILON
            or (window is last[shot] and window.end > end + EPSILON)
        ):
            yield window
            end, shot = window.end, window.shot


def motion_of(found: Timeline, window: Window) -> str:
    """What the timeline says at the middle of a window."""
    middle = (window.start + window.end) / 2
    rows = [row for row in found.rows if row.shot == window.shot]
    return next((row for row in rows if row.end > middle), rows[-1]).motion
