import unittest

from lru import Cache


class Forgetting(unittest.TestCase):
    def test_the_oldest_goes(self):
        cache = Cache(2)
        for key in "abc":
            cache.put(key, key.upper())
        self.assertEqual([cache.get(key) for key in "abc"], [None, "B", "C"])

    def test_what_was_read_stays(self):
        cache = Cache(2)
        cache.put("a", 1)
        cache.put("b", 2)
        self.assertEqual(cache.get("a"), 1)
        cache.put("c", 3)
        self.assertEqual([cache.get(key) for key in "abc"], [1, None, 3])

    def test_what_was_written_again_stays(self):
        cache = Cache(2)
        for key, value in [("a", 1), ("b", 2), ("a", 3), ("c", 4)]:
            cache.put(key, value)
        self.assertEqual([cache.get(key) for key in "abc"], [3, None, 4])

    def test_a_look_for_what_is_not_there_changes_nothing(self):
        cache = Cache(1)
        cache.put("a", None)
        self.assertEqual(cache.get("b", 7), 7)
        self.assertIsNone(cache.get("a", 7))
