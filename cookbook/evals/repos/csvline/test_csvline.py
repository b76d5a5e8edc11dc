import unittest

from csvline import split


class Splitting(unittest.TestCase):
    def test_plain(self):
        self.assertEqual(split("a,b,,c"), ["a", "b", "", "c"])

    def test_a_comma_in_quotes(self):
        self.assertEqual(split('"a,b",c'), ["a,b", "c"])

    def test_a_quote_that_is_written_twice(self):
        self.assertEqual(split('"say ""hi""",c'), ['say "hi"', "c"])

    def test_an_empty_field_in_quotes(self):
        self.assertEqual(split('"",c'), ["", "c"])
