"""Settings: the defaults, and what a user says."""

DEFAULTS = {"theme": "light", "editor": {"tabs": 4, "wrap": True}, "recent": []}


def settings(user):
    """The defaults, with what the user says in their place; nested groups are merged."""
    merged = DEFAULTS
    for name, value in user.items():
        if isinstance(value, dict):
            merged[name].update(value)
        else:
            merged[name] = value
    return merged
