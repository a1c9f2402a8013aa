"""Measures the performance of the service: each question is a module here, and `make bench` runs them.

Each measurement starts its own servers (`servers`) and sends its load from separate processes (`load`). The report
shows each figure with its minimum, its goal and the reference of the same run (`report`).
"""
