import unittest

from roman import to_roman


class Numerals(unittest.TestCase):
    def test_sums(self):
        self.assertEqual([to_roman(n) for n in (1, 3, 8, 66)], ["I", "III", "VIII", "LXVI"])

    def test_fours_and_nines(self):
        self.assertEqual([to_roman(n) for n in (4, 9, 40, 90, 400, 900)], ["IV", "IX", "XL", "XC", "CD", "CM"])

    def test_years(self):
        self.assertEqual([to_roman(n) for n in (1994, 2026)], ["MCMXCIV", "MMXXVI"])
