"""What pyproject.toml cannot express: the optional C engine. Installing goes on without it if it fails to build."""

import sys
from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("zoo/engine/csrc")
# No contraction: the order of roundings is that of the source, the same with every compiler.
FLAGS = ["-O3", "-g0", "-ffp-contract=off"]
if sys.platform == "win32":  # clang-cl; MSVC's own compiler lacks the vector extensions
    compile_args, link_args = ["/clang:" + flag for flag in FLAGS] + ["/std:c11"], []
else:
    compile_args = ["-std=gnu11", "-Wno-psabi", "-fvisibility=hidden", "-pthread", *FLAGS]
    link_args = ["-pthread", "-lm"]

setup(
    ext_modules=[
        Extension(
            "zoo.engine._kernels",
            [str(path) for path in sorted(SOURCES.glob("*.c"))],
            depends=[str(path) for path in sorted(SOURCES.glob("*.h"))],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
            optional=True,
        )
    ]
)
