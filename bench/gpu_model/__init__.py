"""What a GPU would do with our kernel, found out without one.

`ptx` reads what NVRTC compiles, `machine` runs it a warp at a time and counts, `device` lends that
to the CUDA engine as a (very slow) GPU, and `roofline` makes times of the counts.
"""
