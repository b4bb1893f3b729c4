"""A study: one search, from its plan to its report. All of it lives in one folder, and any command goes on from it."""

from raymeta.study.machines.resources import prepare_environment

prepare_environment()  # Ray reads its environment when it is imported, and the modules of this package import it
