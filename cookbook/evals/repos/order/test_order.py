import unittest

from order import build_order


class Orders(unittest.TestCase):
    def test_needs_come_first(self):
        self.assertEqual(build_order({"app": ["lib"], "lib": []}), ["lib", "app"])

    def test_each_once(self):
        self.assertEqual(build_order({"a": ["c"], "b": ["c"], "c": []}), ["c", "a", "b"])

    def test_a_circle_is_named(self):
        with self.assertRaisesRegex(ValueError, "a -> b -> c -> a"):
            build_order({"a": ["b"], "b": ["c"], "c": ["a"], "d": []})
