"""Exchange with other systems: an overlay's changes as a layer in their formats, and their layers as an overlay."""
