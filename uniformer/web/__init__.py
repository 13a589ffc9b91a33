"""The page and the small server."""
