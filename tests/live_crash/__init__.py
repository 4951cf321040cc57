"""Real crashes under load: daemons that are killed, disks that lose power, fail or are full."""
