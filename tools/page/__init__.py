"""The page that ``minifo report`` writes: one HTML file that needs no network."""
