"""Generation options, the sampler, the decode loop, prompt and results files.

May import everything up to zoo.conversion.
"""
