#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Lists the executables of a build directory whose path in it starts with PREFIX, one a line.

Usage: targets.py BUILD PREFIX
"""

import json
import os
import subprocess
import sys


def executables(build):
    """Paths relative to the build directory, as ninja calls them."""
    listing = subprocess.run(["meson", "introspect", "--targets", build], check=True, capture_output=True, text=True)
    for target in json.loads(listing.stdout):
        if target["type"] == "executable":
            yield os.path.relpath(target["filename"][0], os.path.abspath(build))


if __name__ == "__main__":
    build_directory, prefix = sys.argv[1:]
    for path in sorted(executables(build_directory)):
        if path.startswith(prefix):
            print(path)
