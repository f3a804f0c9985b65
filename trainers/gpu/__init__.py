"""The written-out pass of an NVIDIA GPU over rows laid out in segments: forward and backward without autograd.

`ops` says which operations the pass is made of and has them in plain torch (`PlainOps`), `kernels` are Triton's,
`triton_ops` launches them, `segment_pass` is the pass. `trainers.fused.graph` captures it as CUDA graphs.

To add a kernel, write it in `kernels`, launch it in a method of `triton_ops.TritonOps` that `ops.Ops` names, and give
`PlainOps` the same in plain torch: tests/trainers/test_gpu_pass.py holds both against the lean forward.
"""
