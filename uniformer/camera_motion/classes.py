"""What the classes are called and mean. Left, right, up and down are the camera operator's, not the picture's."""

from __future__ import annotations

#: name -> what the camera does. Sorted by name: the order in which a folder of classes is read.
CLASSES: dict[str, str] = {
    "pan_left": "turns left about its vertical axis; the picture moves right",
    "pan_left_then_right": "turns left, then back to the right",
    "pan_right": "turns right about its vertical axis; the picture moves left",
    "pan_right_then_left": "turns right, then back to the left",
    "pedestal_down": "moves down without tilting",
    "pedestal_up": "moves up without tilting",
    "pull_out": "moves backwards, with the same lens: near things shrink faster than far ones",
    "pull_out_then_push_in": "moves backwards, then forwards again",
    "push_in": "moves forwards, with the same lens: near things grow faster than far ones",
    "push_in_then_pull_out": "moves forwards, then backwards again",
    "roll_left": "turns counterclockwise about its optical axis, seen from behind; the picture turns clockwise",
    "roll_right": "turns clockwise about its optical axis, seen from behind; the picture turns counterclockwise",
    "shake": "trembles strongly and irregularly, and gets nowhere",
    "static": "stands still, but for a tremor of a pixel at most; things in the picture may move",
    "tilt_down": "turns down about its horizontal axis; the picture moves up",
    "tilt_up": "turns up about its horizontal axis; the picture moves down",
    "truck_left": "moves left without turning: near things pass faster than far ones",
    "truck_right": "moves right without turning: near things pass faster than far ones",
    "zoom_in": "stays where it is while the focal length grows: near and far grow alike",
    "zoom_out": "stays where it is while the focal length shrinks: near and far shrink alike",
}

_OPPOSITES = (
    ("pan_left", "pan_right"),
    ("pedestal_down", "pedestal_up"),
    ("pull_out", "push_in"),
    ("roll_left", "roll_right"),
    ("tilt_down", "tilt_up"),
    ("truck_left", "truck_right"),
    ("zoom_in", "zoom_out"),
)

#: class -> class of the clip played backwards. A motion there and back is the same backwards: turning left and then
#: right shows what lies on the left in its middle, whichever end comes first.
REVERSED: dict[str, str] = {name: name for name in CLASSES} | dict(_OPPOSITES) | {b: a for a, b in _OPPOSITES}

#: (a turn or zoom, the move that takes the picture the same way): only parallax tells which of the two it is.
LOOK_ALIKES = (
    ("pan_left", "truck_left"),
    ("pan_right", "truck_right"),
    ("tilt_up", "pedestal_up"),
    ("tilt_down", "pedestal_down"),
    ("zoom_in", "push_in"),
    ("zoom_out", "pull_out"),
)

#: class -> class of the mirrored clip (left and right exchanged).
MIRRORED: dict[str, str] = {
    name: name.replace("left", "~").replace("right", "left").replace("~", "right") for name in CLASSES
}
