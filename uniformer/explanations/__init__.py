"""Where and when a network looked: maps of one answer over the pixels and frames that the network was fed."""
