"""Questions about an overlay that its rows answer: what changed, what backs a path, what uses storage."""
