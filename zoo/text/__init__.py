"""Vocabularies, the tokenizer, streaming decoding, and stop strings.

May import zoo.errors and zoo.core.
"""
