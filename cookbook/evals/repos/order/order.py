"""In which order things are to be built."""


def build_order(needs):
    """All targets, each behind what it needs; `needs` maps a target to those it needs, and names every one as a key."""
    ordered = []

    def add(target):
        for other in sorted(needs[target]):
            add(other)
        ordered.append(target)

    for target in sorted(needs):
        add(target)
    return ordered
