"""The rebase of an overlay whose base was replaced: the plan, its execution, and the preparation before an update."""
