"""The levels that the `vizdoom` package carries: a game in one, and pictures with boxes and masks made in them."""
