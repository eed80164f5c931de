"""Kernels for GPUs, in Triton: functions on tensors, each below the kernel that it launches.

They are written once for float32, float16 and bfloat16, and for heads of up to 256 elements. Sums
are float32. Under Triton's interpreter (TRITON_INTERPRET=1) they run on a CPU, which is how they
are tested where there is no GPU.
"""
