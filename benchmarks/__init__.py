"""Side-by-side measurements; each module prints a table and can write it as JSON."""
