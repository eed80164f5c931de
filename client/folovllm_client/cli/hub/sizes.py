"""Sizes as people read them."""


def size_text(num_bytes: int) -> str:
    """In decimal units, as disks and downloads are measured: "1.5 GB"."""
    value, unit = float(num_bytes), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"
