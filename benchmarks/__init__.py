"""What the service costs, measured: each question of section 7 is a module here, `make bench` asks them.

Servers are started for the measurement (`servers`), what is sent comes from processes of its own (`load`), and
every figure stands beside its watermark, its goal and the reference of the same run (`report`).
"""
