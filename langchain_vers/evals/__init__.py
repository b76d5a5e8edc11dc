"""The parts of `integrations.langsmith`: what is evaluated, by whom, on which machines, and how the outcome looks."""
