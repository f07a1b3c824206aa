"""What a format is: rules and tables, config maps, the registry of plugins, opening a path.

May import zoo.errors, zoo.core, zoo.containers, zoo.text and zoo.models.
"""
