"""GPT-2: config and parameter shapes, the torch module, KV cache, initialisation, CPU training operations.

May import zoo.errors, zoo.core, zoo.text and zoo.models.
"""
