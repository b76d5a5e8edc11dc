import unittest

from calendar_days import days_in


class Months(unittest.TestCase):
    def test_ordinary_months(self):
        self.assertEqual([days_in(2025, month) for month in (1, 4, 12)], [31, 30, 31])

    def test_february(self):
        self.assertEqual([days_in(year, 2) for year in (2023, 2024)], [28, 29])

    def test_february_of_centuries(self):
        self.assertEqual([days_in(year, 2) for year in (1900, 2000, 2100)], [28, 29, 28])
