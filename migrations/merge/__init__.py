"""The merge of an overlay into its base: the plan, and the journalled execution of it."""
