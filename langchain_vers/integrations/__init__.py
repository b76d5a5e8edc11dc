"""Where this package meets others. Each module needs what it is named after, and nothing else imports it."""
