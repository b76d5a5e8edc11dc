"""Shell scripts as a policy reads them: what they run and write to, and what cannot be known. Pure; begin with `syntax.parse`."""
