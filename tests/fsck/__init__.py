"""minifo-fsck: damage of every kind, what is found, what is repaired, and what shows then."""
