"""What several formats share: configs from shapes, shards, directories of Hugging Face files.

May import zoo.errors, core, containers, text, models and formats.
"""
