"""Pure decisions and plain values: nothing here awaits, or reads a clock or a file.

Random is only the key of a new request (``requests.py``), and only settings read the environment (``settings.py``).
"""
