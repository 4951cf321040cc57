"""Real mounts as users see them."""
