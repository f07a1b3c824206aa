"""Files of torch.save: zip and legacy containers, a pickle reader that runs nothing, and a writer.

May import zoo.errors, zoo.core and zoo.containers.
"""
