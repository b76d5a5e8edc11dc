"""How long months are."""

DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def is_leap(year):
    return year % 4 == 0


def days_in(year, month):
    """Days of a month (1 to 12) in the Gregorian calendar."""
    return 29 if month == 2 and is_leap(year) else DAYS[month]
