import unittest

from bank import Bank, NotEnough


class Transfers(unittest.TestCase):
    def setUp(self):
        self.bank = Bank(ann=100, bob=20)

    def test_money_moves(self):
        self.bank.transfer("ann", "bob", 30)
        self.assertEqual(self.bank.balances, {"ann": 70, "bob": 50})

    def test_not_enough_changes_nothing(self):
        with self.assertRaises(NotEnough):
            self.bank.transfer("bob", "ann", 21)
        self.assertEqual(self.bank.balances, {"ann": 100, "bob": 20})

    def test_an_unknown_account_changes_nothing(self):
        with self.assertRaises(KeyError):
            self.bank.transfer("ann", "eve", 10)
        self.assertEqual(self.bank.balances, {"ann": 100, "bob": 20})

    def test_no_money_is_taken_by_giving_less_than_nothing(self):
        with self.assertRaises(ValueError):
            self.bank.transfer("ann", "bob", -5)
        self.assertEqual(self.bank.balances, {"ann": 100, "bob": 20})
