"""A game in one of the 68 levels of Freedoom 1 and 2 that the `vizdoom` package carries."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from uniformer.errors import MissingExtra
from uniformer.support.files import system_folder

_FREEDOOM1 = tuple(f"E{episode}M{level}" for episode in range(1, 5) for level in range(1, 10))
_FREEDOOM2 = tuple(f"MAP{level:02d}" for level in range(1, 33))

#: (file, level) in the order of the games. Benchmarks are split by levels, all by the same ones.
LEVELS = (*(("freedoom1.wad", level) for level in _FREEDOOM1), *(("freedoom2.wad", level) for level in _FREEDOOM2))
TRAIN_LEVELS = tuple(level for i, level in enumerate(LEVELS) if i % 4 != 3)


def level_name(wad: str, level: str) -> str:
    """'freedoom1/E1M1'."""
    return f"{Path(wad).stem}/{level}"


def require_vizdoom(extra: str) -> None:
    """Raises `MissingExtra`, naming the extra that installs it, without `vizdoom`."""
    if importlib.util.find_spec("vizdoom") is None:
        raise MissingExtra("vizdoom", extra, "the ViZDoom world")


@contextlib.contextmanager
def open_game(
    wad: str, level: str, seed: int, *, size: tuple[int, int], buttons: Sequence[str], buffers: Sequence[str]
) -> Iterator[Any]:
    """Start a `vizdoom.DoomGame` in a level, of pictures without anything drawn over them.

    It writes files where it starts, so it starts in a temporary folder: the process's own is another until it ends.

    Args:
        size: height and width of the pictures, one of those that the game knows.
        buttons: names of `vizdoom.Button`, in the order of an action's values.
        buffers: what a state holds besides the picture: "depth_buffer", "labels_buffer", "objects_info",
            "sectors_info".
    """
    import vizdoom

    game = vizdoom.DoomGame()
    with system_folder("game") as folder, contextlib.chdir(folder):
        game.set_doom_game_path(str(Path(vizdoom.__file__).parent / wad))
        game.set_doom_map(level)
        game.set_doom_config_path("vizdoom.ini")
        game.set_seed(seed)
        game.set_doom_skill(3)
        game.set_episode_timeout(0)
        game.set_screen_resolution(getattr(vizdoom.ScreenResolution, f"RES_{size[1]}X{size[0]}"))
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_window_visible(False)
        game.set_sound_enabled(False)
        for buffer in buffers:
            getattr(game, f"set_{buffer}_enabled")(True)
        for part in ("hud", "weapon", "crosshair", "messages", "screen_flashes"):
            getattr(game, f"set_render_{part}")(False)
        game.set_available_buttons([getattr(vizdoom.Button, name) for name in buttons])
        game.add_game_args("+sv_cheats 1 +movebob 0 +stillbob 0")
        try:
            game.init()
            yield game
        finally:
            game.close()
