"""Power cuts and I/O errors under the engine alone, at every step, by a recorder and a model of a disk."""
