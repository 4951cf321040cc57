"""Says at the end how many examples the state machines ran."""

from __future__ import annotations

import pytest

from tests.model.state_machine import COUNTS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the count of examples and steps of each machine."""
    if COUNTS:
        told = ", ".join(f"{count} {what}" for what, count in sorted(COUNTS.items()))
        terminalreporter.write_line(f"model: {told}")
