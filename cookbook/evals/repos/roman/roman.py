"""Roman numerals."""

VALUES = [("M", 1000), ("D", 500), ("C", 100), ("L", 50), ("X", 10), ("V", 5), ("I", 1)]


def to_roman(number):
    """A number from 1 to 3999 in Roman numerals."""
    text = ""
    for letter, value in VALUES:
        text += letter * (number // value)
        number %= value
    return text
