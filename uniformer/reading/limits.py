"""What a file may ask for: pixels of one picture, and work for its bytes.

A few bytes can ask for hours of decoding: a million samples that are one byte, frames of 8K that say "as before", a
thousand passes over one picture. Limits count pixels, packets and passes, never seconds, so that a file that is read on
one machine is read on all.
"""

from __future__ import annotations

from uniformer.errors import InputError

MAX_PIXELS = 1 << 25  #: of one frame: 8K UHD (7680 x 4320) fits. More is refused before it is allocated

# In pixels decoded, of about half a nanosecond each. Free for any file: 1.5 seconds, 96 frames of 8K. Above that its
# bytes have to account for it: full HD that stands still, a keyframe every ten seconds, needs 10,000 pixels a byte.
FREE_WORK = 3 << 30
WORK_PER_BYTE = 1 << 15
PACKET_READ = 1 << 12  # taking a packet out of a container
BYTE_READ = 8  # of one: where packets overlap or are compressed, they come to more than the file
PACKET_DECODED = 1 << 15  # giving it to a decoder, beside the pixels it gives
NOTHING_DECODED = 1 << 20  # where none comes of it: a decoder that looks for a frame in noise takes its time
CONVERTED = 2  # a pixel that becomes RGB


def most_passes(pixels: int) -> int:
    """How often a JPEG may go over a picture of so many pixels. A progressive one does ten times, or some more; passes
    that change nothing cost less than decoding."""
    return max(32, 3 * FREE_WORK // max(pixels, 1))


def check_pixels(name: object, width: int, height: int, most: int = MAX_PIXELS) -> None:
    """Raises `InputError` for more than `most` pixels."""
    if width * height > most:
        raise InputError(f"{name}: expected at most {most} pixels a frame, found {width}x{height}")


class Work:
    """What one pass over a file may still cost."""

    def __init__(self, name: str, size: int):
        self._name, self._size = name, size
        self._left = FREE_WORK + WORK_PER_BYTE * size

    def spend(self, pixels: int) -> None:
        """Raises `InputError` once a file of so many bytes asks for too much."""
        self._left -= pixels
        if self._left < 0:
            raise InputError(
                f"{self._name}: expected less to decode in {self._size} bytes, found frames, packets or passes worth "
                f"more than {FREE_WORK + WORK_PER_BYTE * self._size:.2g} pixels"
            )
