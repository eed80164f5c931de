"""The GPU, the torch that is to use it, and whether the engine's GPU kernels compute there."""

import warnings

from folovllm.installation.nvidia import DriverError, Gpu, nvidia_gpus
from folovllm.installation.parts import missing_packages
from folovllm.installation.pip_command import pip_install, pip_uninstall
from folovllm_client.cli.doctor.findings import GPU_KERNELS, Finding
from folovllm_client.cli.doctor.torch_build import TorchBuild, cuda_packages, torch_build


def check_gpu() -> list[Finding]:
    """Which GPUs there are, and whether the installed torch is the one for this machine.

    torch is imported only where it is to use a GPU.
    """
    build = torch_build()
    try:
        gpus = nvidia_gpus()
    except DriverError as error:
        text = f"not usable: {error}"
        torch = Finding("torch", "info", build.version) if build else None
        return [Finding("GPU", "warning", text), *([torch] if torch else [])]
    found = [Finding("GPU", "ok", _named(gpu)) for gpu in gpus]
    if not gpus:
        found = [Finding("GPU", "info", "no NVIDIA GPU")]
    if build is None:
        return found
    if not gpus:
        return [*found, check_torch_without_gpu(build)]
    if not build.cuda:
        return [*found, _cpu_build_beside_gpu(build)]
    return [*found, *_check_torch_with_gpu(build)]


def check_torch_without_gpu(build: TorchBuild) -> Finding:
    """Whether it is the build for CUDA, which is gigabytes that nothing uses."""
    if not build.cuda:
        return Finding("torch", "ok", f"{build.version}, built for CPUs")
    sizes = cuda_packages()
    gigabytes = sum(sizes.values()) / 1e9
    text = f"{build.version} is built for CUDA: {gigabytes:.1f} GB are of no use without a GPU"
    remove = pip_uninstall("torch", *sorted(sizes))
    install = pip_install(f"torch=={build.public_version}+cpu", cpu_torch=True)
    return Finding("torch", "warning", text, f"{remove} && {install}")


def _cpu_build_beside_gpu(build: TorchBuild) -> Finding:
    text = f"{build.version} is built for CPUs, and the GPU is not used"
    # pip would take it for the version that it is to install.
    install = pip_install(f"torch=={build.public_version}")
    return Finding("torch", "warning", text, f"{pip_uninstall('torch')} && {install}")


def _check_torch_with_gpu(build: TorchBuild) -> list[Finding]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            import torch

            usable = torch.cuda.is_available()
        except (ImportError, OSError) as error:
            return [Finding("torch", "error", f"{build.version} cannot be imported: {error}")]
    if not usable:
        reason = str(said[0].message).splitlines()[0] if said else "it does not say why"
        return [Finding("torch", "error", f"{build.version} cannot use the GPU: {reason}")]
    found = [Finding("torch", "ok", f"{build.version}, built for CUDA {build.cuda}")]
    return found if missing_packages("engine") else [*found, check_gpu_kernels()]


def check_gpu_kernels() -> Finding:
    """Whether the GPU kernels can be used, or what they lack."""
    from engine_service.kernels.gpu.support import obstacle

    if reason := obstacle():
        return Finding(GPU_KERNELS, "warning", f"cannot be used: {reason}")
    return Finding(GPU_KERNELS, "ok", "Triton compiles them when the engine first starts")


def _named(gpu: Gpu) -> str:
    memory = f", {gpu.memory_mib / 1024:.0f} GiB" if gpu.memory_mib else ""
    return f"{gpu.name}{memory}, driver {gpu.driver}"
