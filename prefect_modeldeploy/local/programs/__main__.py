"""`python <this folder> replica FD` or `python <this folder> zygote FD`, with an inherited socket.

Run like this, Python puts this folder, and only this one, first on its import path: the modules of models are not
shadowed by those of this package.
"""

import importlib
import socket
import sys

PROGRAMS = {"replica": "modeldeploy_replica.server", "zygote": "modeldeploy_replica.zygote"}

if __name__ == "__main__":
    _, name, descriptor = sys.argv
    importlib.import_module(PROGRAMS[name]).serve(socket.socket(fileno=int(descriptor)))
