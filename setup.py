"""Build the C library, which pyproject.toml cannot declare as optional: if it does not compile, zoo works without
it.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "zoo.engine._kernels",
            ["zoo/engine/csrc/kernels.c", "zoo/engine/csrc/probe.c"],
            depends=["zoo/engine/csrc/tile.h", "zoo/engine/csrc/whole.h", "zoo/engine/csrc/bf16.h"],
            extra_compile_args=["-std=gnu11", "-O3", "-g0", "-Wno-psabi", "-pthread"],
            extra_link_args=["-pthread", "-lm"],
            optional=True,
        )
    ]
)
