"""A cache of bounded size that forgets what was used longest ago."""


class Cache:
    def __init__(self, size):
        self.size = size
        self._items = {}

    def get(self, key, default=None):
        return self._items.get(key, default)

    def put(self, key, value):
        self._items[key] = value
        if len(self._items) > self.size:
            del self._items[next(iter(self._items))]
