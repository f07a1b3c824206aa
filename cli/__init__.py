"""The command line: one module a command, nothing that a library user would want. Imported as zoo.cli."""

if __name__ != "zoo.cli":
    raise ImportError(f"import zoo.cli, not {__name__}: the folder belongs to the package zoo")
