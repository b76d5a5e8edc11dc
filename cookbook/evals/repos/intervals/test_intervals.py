import unittest

from intervals import merge


class Merging(unittest.TestCase):
    def test_apart(self):
        self.assertEqual(merge([(9, 12), (13, 17)]), [(9, 12), (13, 17)])

    def test_overlapping(self):
        self.assertEqual(merge([(13, 17), (9, 14)]), [(9, 17)])

    def test_touching(self):
        self.assertEqual(merge([(9, 12), (12, 17)]), [(9, 17)])

    def test_one_within_another(self):
        self.assertEqual(merge([(9, 17), (10, 11)]), [(9, 17)])
