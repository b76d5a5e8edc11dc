import unittest

from settings import settings


class Settings(unittest.TestCase):
    def test_defaults(self):
        self.assertEqual(settings({})["editor"], {"tabs": 4, "wrap": True})

    def test_groups_are_merged(self):
        self.assertEqual(settings({"editor": {"tabs": 2}})["editor"], {"tabs": 2, "wrap": True})

    def test_one_user_does_not_change_the_next(self):
        settings({"theme": "dark", "editor": {"wrap": False}})["recent"].append("a.txt")
        self.assertEqual(settings({}), {"theme": "light", "editor": {"tabs": 4, "wrap": True}, "recent": []})

    def test_a_new_group(self):
        self.assertEqual(settings({"proxy": {"port": 80}})["proxy"], {"port": 80})
