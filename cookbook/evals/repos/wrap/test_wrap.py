import unittest

from wrap import wrap


class Wrapping(unittest.TestCase):
    def test_no_line_ends_in_a_blank(self):
        self.assertEqual(wrap("to be or not to be", 8), ["to be or", "not to", "be"])

    def test_no_text_is_no_line(self):
        self.assertEqual(wrap("  ", 8), [])

    def test_a_long_word_is_cut(self):
        self.assertEqual(wrap("a hippopotamus", 5), ["a", "hippo", "potam", "us"])

    def test_a_word_as_long_as_the_line(self):
        self.assertEqual(wrap("abcde fg", 5), ["abcde", "fg"])
