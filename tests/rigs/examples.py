"""How many examples a property of a pure module is tried with: what decides about secrets and escapes is tried harder than the rest."""

from __future__ import annotations

from hypothesis import settings

many = settings(max_examples=10_000 if settings.get_current_profile_name() == "full" else 100)
"""100, and 10,000 in the full run."""
