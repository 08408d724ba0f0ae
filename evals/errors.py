"""What ends an evaluation."""

from __future__ import annotations


class EvalError(Exception):
    """Something the person who evaluates can put right; the message is one line that says how."""
