"""The control socket of a mount, STORAGE/control: a mounted overlay answers questions there, by Varlink."""
