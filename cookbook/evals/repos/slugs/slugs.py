"""Titles as they stand in URLs."""

import re


def slugify(title):
    """The words of a title in lower case, joined by single hyphens."""
    return re.sub(r"[^a-z0-9]", "-", title.lower())
