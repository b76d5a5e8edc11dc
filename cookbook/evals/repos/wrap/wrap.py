"""Text in lines of bounded length."""


def wrap(text, width):
    """Lines of at most `width` characters, broken between words; a word that is longer than a line is cut into several."""
    lines, line = [], ""
    for word in text.split():
        if len(line) + len(word) > width:
            lines.append(line)
            line = ""
        line += word + " "
    return [*lines, line]
