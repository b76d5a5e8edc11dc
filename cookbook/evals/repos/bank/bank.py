"""Accounts and the money on them."""


class NotEnough(Exception):
    pass


class Bank:
    def __init__(self, **balances):
        self.balances = balances

    def transfer(self, source, target, amount):
        """Move money, all of it or none."""
        self.balances[source] -= amount
        if self.balances[source] < 0:
            raise NotEnough(source)
        self.balances[target] += amount
