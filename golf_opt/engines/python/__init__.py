"""Trials of a function of the user's: a generator in a process of its own for each lane."""

from golf_opt.engines.python.engine import PythonEngine as PythonEngine
from golf_opt.engines.python.job import Call as Call
from golf_opt.engines.python.job import ObjectiveJob as ObjectiveJob
