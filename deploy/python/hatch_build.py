"""The wheel's tag: of no Python in particular, and of the processor and glibc that the programs were built for."""

import os

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Tag(BuildHookInterface):
    def initialize(self, version, build_data):
        build_data["tag"] = f"py3-none-{os.environ['FOREBAY_WHEEL_PLATFORM']}"
        build_data["pure_python"] = False
