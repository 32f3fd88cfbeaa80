"""What configure wants to know of this Python and its PyTorch, as shell assignments. Torch is not imported: that takes seconds.

usage: python3 probe.py        exit status 1 and missing='...': what is not there
"""

import importlib.util
import os
import re
import shlex
import sys
import sysconfig


def missing(what):
    print("missing=" + shlex.quote(what))
    sys.exit(1)


def first(folders, file):
    return next((folder for folder in folders if folder and os.path.exists(os.path.join(folder, file))), None)


def pybind11_folder():
    spec = importlib.util.find_spec("pybind11")
    return os.path.join(os.path.dirname(spec.origin), "include") if spec and spec.origin else None


spec = importlib.util.find_spec("torch")
if not spec or not spec.origin:
    missing("no PyTorch (Debian: python3-torch)")
torch = os.path.dirname(spec.origin)
include = first([os.path.join(torch, "include"), "/usr/include"], "torch/csrc/distributed/c10d/Store.hpp")
if not include:
    missing("no headers of PyTorch (Debian: libtorch-dev)")
api = os.path.join(include, "torch/csrc/api/include")
python = first([sysconfig.get_paths()["include"], sysconfig.get_paths()["platinclude"]], "Python.h")
if not python:
    missing("no Python.h (Debian: python3-dev)")
pybind11 = first([include, "/usr/include", pybind11_folder()], "pybind11/pybind11.h")
if not pybind11:
    missing("no pybind11 (Debian: pybind11-dev)")
libraries = os.path.join(torch, "lib")
if not os.path.exists(os.path.join(libraries, "libtorch_python.so")):
    missing("no libtorch_python.so in " + libraries)
with open(os.path.join(api, "torch/version.h")) as file:
    version = re.search(r'define TORCH_VERSION *(?:\\\n)? *"([^"]+)"', file.read())
if not version:
    missing("no version in " + api + "/torch/version.h")
version = version.group(1)
if tuple(int(part) for part in version.split(".")[:2]) < (1, 13):
    missing("PyTorch " + version + " is too old: 1.13 is needed")
with open(os.path.join(libraries, "libc10.so"), "rb") as file:
    abi = int(b"__cxx11" in file.read())

folders = []
for folder in (include, api, python, pybind11):
    if folder not in folders and folder != "/usr/include":
        folders.append(folder)
flags = " ".join("-isystem " + folder for folder in folders) + f" -D_GLIBCXX_USE_CXX11_ABI={abi}"
print("TORCH_CPPFLAGS=" + shlex.quote(flags))
print("TORCH_LIBS=" + shlex.quote(f"-L{libraries} -ltorch_python -ltorch -ltorch_cpu -lc10"))
print("TORCH_VERSION=" + shlex.quote(version))
print("TORCH_PYTHON_VERSION=" + shlex.quote("%d, %d" % sys.version_info[:2]))
