"""The segmentation preprocessor of ControlNet (`seg_ufade20k`), with the faces that its users call it by.

    from uniformer.controlnet import UniformerDetector                      # ControlNet
    from uniformer.controlnet import apply_uniformer, unload_uniformer_model    # sd-webui-controlnet
    from uniformer.controlnet import UniformerSegmentor                     # comfyui_controlnet_aux

The network is UPerNet on UniFormer-S with global attention, trained on ADE20K; its file is `upernet_global_small.pth`,
which all three already have. Colours are theirs to the byte, and so is a slip: the originals hand red, green and blue
to a pipeline that takes them for blue, green and red, so the network sees the channels the wrong way round.
`swap=False` mends that, and changes the pictures: see docs/controlnet.md.
"""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from PIL import Image

from uniformer.checkpoints.fetch import fetch_file
from uniformer.config import Scaling
from uniformer.errors import InputError, load_extra
from uniformer.labels import load_palette
from uniformer.reading.pictures import Pixels, to_pixels
from uniformer.tasks.drawing import paint

if TYPE_CHECKING:
    import torch

FILE = "upernet_global_small.pth"
REPOSITORY = "lllyasviel/Annotators"  #: on the Hugging Face hub, where the file lies
MULTIPLE = 64  #: pixels, of the sides of the picture that is segmented


class Annotator:
    """Paints the classes of a picture: uint8 RGB (H, W, 3) -> uint8 RGB of the same size.

    Args:
        path: the file with the weights.
        device: where it computes, as torch names it.
        swap: hand the network the channels the wrong way round, as the originals do.

    Raises `InputError` for a file that cannot be read or is of another network.
    """

    def __init__(self, path: str | os.PathLike[str], *, device: str = "cpu", swap: bool = True):
        from uniformer.checkpoints.load import load_model
        from uniformer.speed import prepare
        from uniformer.tasks.segmentation import Semantic

        model, contract, _ = load_model(path, like="upernet.uniformer_small.ade20k")
        self._task = Semantic(replace(contract, input=Scaling(2048, 512, by="nothing", swap=swap)))
        self._network = prepare(model, training=False, share=True)
        self.to(device)

    def to(self, device: str | torch.device) -> Self:
        self._network.to(device)
        self._device = device
        return self

    def __call__(self, pixels: Pixels) -> Pixels:
        import torch

        with torch.inference_mode():
            views = self._task.load(as_rgb(pixels))
            (labels,), _ = self._task.answer(self._network, views, torch.device(self._device), 1)
        return paint(labels.cpu().numpy(), load_palette("ADE20K"))


class UniformerDetector:
    """As in ControlNet and its nightly version: `UniformerDetector()(img)`. The file is fetched when it is missing."""

    def __init__(self, path: str | os.PathLike[str] | None = None, *, device: str | None = None, swap: bool = True):
        self._annotator = Annotator(path or fetch_file(REPOSITORY, FILE), device=device or _usual_device(), swap=swap)

    def __call__(self, img: Pixels) -> Pixels:
        return self._annotator(img)


class UniformerSegmentor:
    """As in comfyui_controlnet_aux.

    UniformerSegmentor.from_pretrained(repository_or_folder).to(device)(image, detect_resolution=512)
    """

    def __init__(self, annotator: Annotator):
        self._annotator = annotator

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_or_path: str = REPOSITORY,
        filename: str = FILE,
        *,
        cache_dir: str | None = None,
        swap: bool = True,
    ) -> Self:
        """From a folder or file on this machine, or a repository on the hub."""
        if os.path.isfile(pretrained_model_or_path):
            path = Path(pretrained_model_or_path)
        elif os.path.isdir(pretrained_model_or_path):
            path = Path(pretrained_model_or_path, filename)
        else:
            path = fetch_file(pretrained_model_or_path, filename, cache_dir=cache_dir)
        return cls(Annotator(path, swap=swap))

    def to(self, device: str | torch.device) -> Self:
        self._annotator.to(device)
        return self

    def __call__(
        self,
        input_image: Pixels | Image.Image,
        detect_resolution: int = 512,
        output_type: Literal["pil", "np"] | None = None,
        upscale_method: str = "INTER_CUBIC",
        **unused: Any,
    ) -> Pixels | Image.Image:
        """The painted picture with the short side `detect_resolution`; PIL's where a PIL image came in, else an array.

        The picture is scaled by OpenCV, filled up to multiples of 64 by its edges, and cut again.
        """
        if unused:
            raise InputError(f"expected no option {', '.join(map(repr, unused))} of a segmentor")
        is_array = isinstance(input_image, np.ndarray)
        if isinstance(input_image, Image.Image) and input_image.mode not in ("L", "RGB", "RGBA"):
            pixels = to_pixels(input_image)  # such as a palette's places, or 16 bits
        else:
            pixels = as_rgb(np.asarray(input_image))
        scaled, height, width = _filled(pixels, detect_resolution, upscale_method)
        painted = self._annotator(scaled)[:height, :width]
        kind = output_type or ("np" if is_array else "pil")
        return Image.fromarray(painted) if kind == "pil" else painted


@functools.cache
def _kept() -> Annotator:
    """The network that sd-webui-controlnet keeps between calls."""
    return Annotator(fetch_file(REPOSITORY, FILE))


def apply_uniformer(img: Pixels) -> Pixels:
    """As in sd-webui-controlnet: the painted picture. The network is loaded at the first call and kept."""
    return _kept().to(_usual_device())(img)


def unload_uniformer_model() -> None:
    """Moves the network that `apply_uniformer` keeps off the GPU."""
    if _kept.cache_info().currsize:
        _kept().to("cpu")


def _usual_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def as_rgb(pixels: Pixels) -> Pixels:
    """Grey repeated, alpha blended onto white: uint8 (H, W, 3)."""
    array = np.asarray(pixels)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(f"expected a picture as uint8 (H, W, 3), got {array.dtype} of shape {array.shape}")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] == 4:
        colour, alpha = array[:, :, :3].astype(np.float32), array[:, :, 3:].astype(np.float32) / 255.0
        return (colour * alpha + 255.0 * (1.0 - alpha)).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array)


def _filled(pixels: Pixels, resolution: int, upscale_method: str) -> tuple[Pixels, int, int]:
    """Scaled to a short side of `resolution`, the edges repeated up to multiples of 64; and the size without these."""
    cv2 = load_extra("cv2", "opencv-python-headless", "controlnet", "scaling pictures as ComfyUI does")
    if not upscale_method.startswith("INTER_") or not hasattr(cv2, upscale_method):
        raise InputError(f"expected a filter of OpenCV such as INTER_CUBIC, got {upscale_method!r}")
    factor = float(resolution) / min(pixels.shape[:2])
    height, width = (int(np.round(n * factor)) for n in pixels.shape[:2])
    how = getattr(cv2, upscale_method) if factor > 1 else cv2.INTER_AREA
    scaled = np.asarray(cv2.resize(pixels, (width, height), interpolation=how), np.uint8)
    fill = [(0, -n % MULTIPLE) for n in (height, width)]
    return np.pad(scaled, ((*fill, (0, 0))), mode="edge"), height, width
