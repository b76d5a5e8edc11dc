"""What `make bench` measures. Each module measures one thing and returns rows; `__main__` prints them as a table."""
