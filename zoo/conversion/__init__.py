"""Planning a conversion, running it, and the record of where a file came from.

May import everything up to zoo.formats.
"""
