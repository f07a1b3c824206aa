"""Plan a conversion, run it, and record its provenance.

May import everything up to zoo.formats.
"""
