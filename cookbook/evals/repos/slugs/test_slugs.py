import unittest

from slugs import slugify


class Slugs(unittest.TestCase):
    def test_words_are_joined(self):
        self.assertEqual(slugify("Hello World"), "hello-world")

    def test_runs_of_other_characters_are_one_hyphen(self):
        self.assertEqual(slugify("Rock & Roll -- live!"), "rock-roll-live")

    def test_no_hyphen_at_the_ends(self):
        self.assertEqual(slugify("  (draft) notes..."), "draft-notes")
