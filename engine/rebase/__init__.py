"""What an overlay holds of a base that was replaced: listed, and brought to one version by row changes."""
