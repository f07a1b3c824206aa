"""One module per format; shared/ has code that several formats use.

The folder is part of the package zoo, under the name zoo.converters. Imported under any other name its modules would
exist twice, with two of every class, so that is refused.
"""

if __name__ != "zoo.converters":
    raise ImportError(f"import zoo.converters, not {__name__}: the folder belongs to the package zoo")
