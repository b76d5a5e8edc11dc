"""A model that plays a programmer of some talent: it solves eight of the ten tasks, is wrong about one, and gives up on one.

It stands in for a real one, so that the notebook needs no key and comes out the same each time.
"""

import re

from langchain_vers.demo.scripted import ScriptedModel, Step

EDITS = {
    "bank": {
        """\
        self.balances[source] -= amount
        if self.balances[source] < 0:
            raise NotEnough(source)
""": """\
        if amount < 0:
            raise ValueError(amount)
        if target not in self.balances:
            raise KeyError(target)
        if self.balances[source] < amount:
            raise NotEnough(source)
        self.balances[source] -= amount
"""
    },
    "calendar_days": {
        "return year % 4 == 0": "return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)",
        "else DAYS[month]": "else DAYS[month - 1]",
    },
    "csvline": {
        "for character in line:": "for place, character in enumerate(line):",
        """\
            quoted = not quoted
""": """\
            if not quoted and field and line[place - 1] == '"':
                field += character
            quoted = not quoted
""",
    },
    "intervals": {
        "start < merged[-1][1]:": "start <= merged[-1][1]:",
        "(merged[-1][0], end)": "(merged[-1][0], max(merged[-1][1], end))",
    },
    "lru": {
        """\
        return self._items.get(key, default)
""": """\
        if key not in self._items:
            return default
        value = self._items[key] = self._items.pop(key)
        return value
""",
        """\
        self._items[key] = value
""": """\
        self._items.pop(key, None)
        self._items[key] = value
""",
    },
    "order": {},
    "roman": {
        '("D", 500)': '("CM", 900), ("D", 500), ("CD", 400)',
        '("L", 50)': '("XC", 90), ("L", 50), ("XL", 40)',
        '("V", 5)': '("IX", 9), ("V", 5), ("IV", 4)',
    },
    "settings": {
        "\n\nDEFAULTS": "\n\nimport copy\n\nDEFAULTS",
        "merged = DEFAULTS": "merged = copy.deepcopy(DEFAULTS)",
        "merged[name].update(value)": "merged.setdefault(name, {}).update(value)",
    },
    "slugs": {'"[^a-z0-9]", "-", title.lower())': '"[^a-z0-9]+", "-", title.lower()).strip("-")'},
    # Long words are still not cut.
    "wrap": {
        "lines.append(line)": "lines.append(line.rstrip())",
        "return [*lines, line]": "return [*lines, line.rstrip()] if line else lines",
    },
}
"""By task, what is replaced by what; none: it gives up."""


def steps(task):
    """What it does about a task: it looks at the tests and the code, changes the code, and runs the tests again."""

    def looked(message, results):
        return "seen"

    tests = {"command": f"cd ~/tasks/{task} && python3 -m unittest -q 2>&1 | tail -n 12"}
    told = [
        Step("reproduce", "bash", tests, check=looked, say="I run the tests first."),
        Step("look", "read", {"path": f"~/tasks/{task}/{task}.py"}),
    ]
    if EDITS[task]:
        edits = [{"old_text": old, "new_text": new} for old, new in EDITS[task].items()]
        told += [
            Step("fix", "edit", {"path": f"~/tasks/{task}/{task}.py", "edits": edits}, say="I see."),
            Step("verify", "bash", tests, check=looked),
        ]
    return told


class Programmer(ScriptedModel):
    """Finds out from its instruction which task it has."""

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        task = re.search(r"~/tasks/(\w+)", messages[0].text).group(1)
        farewell = "I have fixed it." if EDITS[task] else "I do not see how to do this, and give up."
        return ScriptedModel(steps=steps(task), farewell=farewell)._generate(messages)
