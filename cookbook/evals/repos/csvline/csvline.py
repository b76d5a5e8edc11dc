"""One line of a CSV file."""


def split(line):
    """The fields of a line; a field in double quotes may have commas, and quotes that are written twice."""
    fields, field, quoted = [], "", False
    for character in line:
        if character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            fields.append(field)
            field = ""
        else:
            field += character
    return [*fields, field]
